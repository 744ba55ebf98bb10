"""A low-rank fix of what codes leave, where inputs see it most. EoRA (Liu et al., arXiv 2410.21271) on the delta."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_cast, checked_delta, checked_second_moment
from meswitch.codecs.options import check_choice, check_not_negative, options_of
from meswitch.codecs.quantise import FIT_RULES, FitRule
from meswitch.codecs.salient import Salient
from meswitch.codecs.selection import SELECT_RULES, SelectRule
from meswitch.codecs.subspace import balanced_factors, leading_directions, weighted_directions
from meswitch.errors import CodecOptionError
from meswitch_kernels.packing import BITS

__all__ = ["Eora"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Eora:
    """`D̂` of `salient`, plus `left · right` of rank R: the best fix of its error in the output.

    Attributes:
        rank: of the fix, at least 1.
        bits, channels, select, step: of the codes, as in `salient`; without salient channels they are those of `rtn`.
    """

    name: ClassVar[str] = "eora"
    gain_tensors: ClassVar[tuple[str, ...]] = ("step", "values", "left")

    rank: int = 16
    bits: int = 2
    channels: int = 0
    select: SelectRule = "error"
    step: FitRule = "mse"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise CodecOptionError(f"codec eora: rank must be at least 1, got {self.rank}")
        check_choice(self.name, "bits", self.bits, BITS)
        check_choice(self.name, "select", self.select, SELECT_RULES)
        check_choice(self.name, "step", self.step, FIT_RULES)
        check_not_negative(self.name, channels=self.channels)

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """What `salient` stores, `left` `[N, R]` float16 and `right` `[R, K]` float16.

        Raises:
            CodecOptionError: if `rank` is more than the delta can have, or there are too few input channels.
        """
        if self.rank > min(N, K):
            raise CodecOptionError(f"codec eora: rank must be at most {min(N, K)} for [{N}, {K}], got {self.rank}")
        return {
            **self.coarse().layout(N, K),
            "left": TensorSpec((N, self.rank), torch.float16),
            "right": TensorSpec((self.rank, K), torch.float16),
        }

    def compress(
        self,
        delta: torch.Tensor,
        *,
        input_square_sum: torch.Tensor | None = None,
        input_second_moment: torch.Tensor | None = None,
    ) -> CompressedDelta:
        """`delta` as codes and steps, and a low-rank fix.

        Without second moments inputs are taken as independent and equal; the fix is then the leading part of the error
        itself.

        Args:
            delta: expert minus base, `[N, K]`.
            input_square_sum: `Σ x_k²` over calibration tokens, `[K]`; `None` without calibration.
            input_second_moment: `Σ x xᵀ` over calibration tokens, `[K, K]`; `None` without calibration.

        Raises:
            ValueError: if an argument is not finite or of another shape, or a factor does not fit float16.
            CodecOptionError: as `layout`, or if `select` needs calibration and there is none.
        """
        delta = checked_delta(delta)
        N, K = delta.shape
        layout = self.layout(N, K)
        coarse = self.coarse()
        described = coarse.compress(delta, input_square_sum=input_square_sum)
        tensors = {name: spec.empty(delta.device) for name, spec in layout.items()} | dict(described.tensors)
        if not delta.is_meta:
            error = delta - coarse.decompress(described)
            if input_second_moment is None:
                directions = leading_directions(error, self.rank)
            else:
                moment = checked_second_moment(input_second_moment, K).to(delta.device)
                directions = weighted_directions(error, self.rank, moment)
            left, right = balanced_factors(error, directions)
            tensors["left"], tensors["right"] = checked_cast(left, torch.float16), checked_cast(right, torch.float16)
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """The codes' delta plus the fix, `[N, K]` float32.

        Raises:
            DeltaFormatError: if the tensors are not the declared ones, or the channels not ascending and below K.
        """
        check_tensors(self, compressed)
        coarse, tensors = self.coarse(), dict(compressed.tensors)
        left, right = (tensors.pop(name).to(torch.float32) for name in ("left", "right"))
        described = coarse.decompress(
            CompressedDelta(codec=coarse.name, options=coarse.options, shape=compressed.shape, tensors=tensors)
        )
        return described.addmm_(left, right)

    def coarse(self) -> Salient:
        """The codec of the codes."""
        return Salient(bits=self.bits, channels=self.channels, select=self.select, step=self.step)
