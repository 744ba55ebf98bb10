"""Round to nearest: packed low-bit codes and one step per output channel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_delta
from meswitch.codecs.levels import codes_of, levels_of
from meswitch.codecs.options import check_choice, options_of
from meswitch.codecs.quantise import STEP_RULES, StepRule, quantise_rows, row_chunks
from meswitch_kernels.packing import BITS, pack, unpack, words_per_row

__all__ = ["Rtn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rtn:
    """`D̂ = step · level`, where the level is the code's and the step the output channel's.

    Attributes:
        bits: of a code: 1, 2, 4 or 8.
        step: `absmax`, `mse` or `unbiased`, as in `quantise_rows`.
    """

    name: ClassVar[str] = "rtn"
    gain_tensors: ClassVar[tuple[str, ...]] = ("step",)

    bits: int = 4
    step: StepRule = "unbiased"

    def __post_init__(self) -> None:
        check_choice(self.name, "bits", self.bits, BITS)
        check_choice(self.name, "step", self.step, STEP_RULES)

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """`codes`: packed, `[N, words]` int32. `step`: `[N]` float32."""
        return {
            "codes": TensorSpec((N, words_per_row(K, self.bits)), torch.int32),
            "step": TensorSpec((N,), torch.float32),
        }

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` as codes and steps; calibration is not used.

        Raises:
            ValueError: if the delta is not a finite matrix.
        """
        del input_square_sum
        delta = checked_delta(delta)
        N, K = delta.shape
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        for rows in row_chunks(N, K, delta.device):
            levels, tensors["step"][rows] = quantise_rows(delta[rows], bits=self.bits, rule=self.step)
            tensors["codes"][rows] = pack(codes_of(levels, self.bits), self.bits)
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """`step · level`, `[N, K]` float32."""
        check_tensors(self, compressed)
        codes = unpack(compressed.tensors["codes"], self.bits, compressed.shape[1])
        return levels_of(codes, self.bits).mul_(compressed.tensors["step"].unsqueeze(1))
