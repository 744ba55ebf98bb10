"""Bit planes: a 1-bit delta that is valid by itself, and a second plane that makes it a 2-bit one.

Whoever waits for an expert can start with half of its bytes. Any precision out of one set of codes is the idea of
any-precision quantisation (Park et al., arXiv 2402.10517); here each precision has a step of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_delta
from meswitch.codecs.levels import codes_of, levels_of
from meswitch.codecs.options import check_choice, options_of
from meswitch.codecs.quantise import FIT_RULES, FitRule, fitted_steps, quantise_rows, row_chunks
from meswitch.codecs.rtn import Rtn
from meswitch_kernels.packing import pack, unpack, words_per_row

__all__ = ["Nested", "first_plane"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """`D̂` as `rtn:bits=2` describes it, its codes split by bits.

    The upper bit of a 2-bit code is its sign: that of the 1-bit code of the same element. So the first plane with a
    step of its own is `rtn:bits=1`.

    Attributes:
        step: `mse` or `unbiased`, of both precisions.
    """

    name: ClassVar[str] = "nested"
    gain_tensors: ClassVar[tuple[str, ...]] = ("sign_step", "step")

    step: FitRule = "unbiased"

    def __post_init__(self) -> None:
        check_choice(self.name, "step", self.step, FIT_RULES)

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """What serves alone comes first: `signs` and `sign_step`, then `refinement` and `step`.

        * `signs`, `refinement`: the upper and the lower bits of the codes, packed, `[N, words]` int32 each.
        * `sign_step`: of the first plane alone, `[N]` float32. * `step`: of both planes, `[N]` float32.
        """
        plane = TensorSpec((N, words_per_row(K, 1)), torch.int32)
        step = TensorSpec((N,), torch.float32)
        return {"signs": plane, "sign_step": step, "refinement": plane, "step": step}

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` as two planes and their steps; calibration is not used.

        Raises:
            ValueError: if the delta is not a finite matrix.
        """
        del input_square_sum
        delta = checked_delta(delta)
        N, K = delta.shape
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        for rows in row_chunks(N, K, delta.device):
            levels, tensors["step"][rows] = quantise_rows(delta[rows], bits=2, rule=self.step)
            codes = codes_of(levels, 2)
            signs = codes >> 1
            tensors["signs"][rows] = pack(signs, 1)
            tensors["refinement"][rows] = pack(codes & 1, 1)
            tensors["sign_step"][rows] = fitted_steps(delta[rows], levels_of(signs, 1), rule=self.step)
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """`step · level` of both planes, `[N, K]` float32."""
        check_tensors(self, compressed)
        K, tensors = compressed.shape[1], compressed.tensors
        codes = unpack(tensors["signs"], 1, K) << 1 | unpack(tensors["refinement"], 1, K)
        return levels_of(codes, 2).mul_(tensors["step"].unsqueeze(1))


def first_plane(compressed: CompressedDelta) -> CompressedDelta:
    """The first plane of a `nested` delta as a 1-bit `rtn` delta, sharing its tensors.

    Raises:
        ValueError: if `compressed` is of another codec.
        DeltaFormatError: if its tensors are not the ones that `nested` stores.
    """
    if compressed.codec != Nested.name:
        raise ValueError(f"the first plane is one of a nested delta, got {compressed.codec}")
    codec = Nested(step=cast(FitRule, compressed.options.get("step", "unbiased")))
    check_tensors(codec, compressed)
    plane = Rtn(bits=1, step=codec.step)
    tensors = {"codes": compressed.tensors["signs"], "step": compressed.tensors["sign_step"]}
    return CompressedDelta(codec=plane.name, options=plane.options, shape=compressed.shape, tensors=tensors)
