"""BitDelta (Liu et al., arXiv 2402.10193) without its distillation: signs, and one scale for the whole matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_cast, checked_delta
from meswitch.codecs.levels import codes_of, levels_of, nearest_levels
from meswitch.codecs.options import options_of
from meswitch.codecs.quantise import row_chunks
from meswitch_kernels.packing import pack, unpack, words_per_row

__all__ = ["BitDelta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BitDelta:
    """`D̂ = mean|D| · sign(D)`, with `sign(0) = +1`.

    Stored like other codes: 1-bit levels `±½` and a step of `2 · mean|D|`, a single one for all output channels.
    """

    name: ClassVar[str] = "bitdelta"
    gain_tensors: ClassVar[tuple[str, ...]] = ("step",)

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """Nothing: there is nothing to choose."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """`codes`: packed signs, `[N, words]` int32. `step`: `[1]` float32, to be broadcast over the rows."""
        return {
            "codes": TensorSpec((N, words_per_row(K, 1)), torch.int32),
            "step": TensorSpec((1,), torch.float32),
        }

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` as signs and one step; calibration is not used.

        Raises:
            ValueError: if the delta is not a finite matrix.
        """
        del input_square_sum
        delta = checked_delta(delta)
        N, K = delta.shape
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        magnitude = torch.zeros(1, dtype=torch.float64, device=delta.device)
        for rows in row_chunks(N, K, delta.device):
            magnitude += delta[rows].abs().sum(dtype=torch.float64)
            tensors["codes"][rows] = pack(codes_of(nearest_levels(delta[rows], 1), 1), 1)
        tensors["step"] = checked_cast(2 * magnitude / (N * K), torch.float32)
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """`step · level`, `[N, K]` float32."""
        check_tensors(self, compressed)
        codes = unpack(compressed.tensors["codes"], 1, compressed.shape[1])
        return levels_of(codes, 1).mul_(compressed.tensors["step"])
