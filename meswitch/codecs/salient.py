"""Salient-aware low-bit deltas, after ME-Switch (arXiv 2406.09041), re-implemented from its public descriptions.

Most of the delta is low-bit codes with one step per output channel; the few input channels whose quantisation costs
most are exact up to FP16 rounding. What the public texts leave open is declared in docs/codecs.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_cast, checked_delta
from meswitch.codecs.levels import codes_of, levels_of, nearest_levels
from meswitch.codecs.options import check_choice, check_not_negative, options_of
from meswitch.codecs.quantise import FIT_RULES, FitRule, fitted_steps, quantise_rows, row_chunks
from meswitch.codecs.selection import SELECT_RULES, SelectRule, check_channels, select_channels
from meswitch.errors import CodecOptionError
from meswitch_kernels.packing import BITS, pack, unpack, words_per_row

__all__ = ["Salient"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Salient:
    """`D̂ = step · level`, plus `values` in the salient input channels.

    Salient channels have codes like all others, and `values` hold what the codes leave: `D − step · level`. A product
    with `D̂` is thus the product with all codes plus the product of the gathered inputs with `values`: no mask.

    Attributes:
        bits: of a code: 1, 2, 4 or 8.
        channels: how many input channels are salient; 0 leaves only codes.
        select: how they are chosen, as in `channel_scores`.
        step: `mse` or `unbiased`, as in `quantise_rows`.
        refit: whether codes and steps are fitted again without the salient channels. An `unbiased` step is computed
            over the other channels in either case.
        seed: of `select=random`.
    """

    name: ClassVar[str] = "salient"
    gain_tensors: ClassVar[tuple[str, ...]] = ("step", "values")

    bits: int = 2
    channels: int = 8
    select: SelectRule = "error"
    step: FitRule = "unbiased"
    refit: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.name, "bits", self.bits, BITS)
        check_choice(self.name, "select", self.select, SELECT_RULES)
        check_choice(self.name, "step", self.step, FIT_RULES)
        check_not_negative(self.name, channels=self.channels, seed=self.seed)

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """`codes`, `step`, `salient` and `values`.

        * `codes`: packed, `[N, words]` int32. * `step`: `[N]` float32.
        * `salient`: the salient input channels, `[S]` int32, ascending. * `values`: `[N, S]` float16.

        Raises:
            CodecOptionError: if there are not more than `channels` input channels.
        """
        if self.channels >= K:
            raise CodecOptionError(f"codec salient: channels must be below K = {K}, got {self.channels}")
        return {
            "codes": TensorSpec((N, words_per_row(K, self.bits)), torch.int32),
            "step": TensorSpec((N,), torch.float32),
            "salient": TensorSpec((self.channels,), torch.int32),
            "values": TensorSpec((N, self.channels), torch.float16),
        }

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` as codes and steps, with its salient channels on top.

        Args:
            delta: expert minus base, `[N, K]`.
            input_square_sum: `Σ x_k²` over calibration tokens, `[K]`; `None` without calibration.

        Raises:
            ValueError: if an argument is not finite or of another shape, or a salient value does not fit float16.
            CodecOptionError: if there are too few input channels, or `select` needs calibration and there is none.
        """
        delta = checked_delta(delta)
        N, K = delta.shape
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        salient, rest = select_channels(
            delta,
            count=self.channels,
            select=self.select,
            input_square_sum=input_square_sum,
            quantise=partial(quantise_rows, bits=self.bits, rule=self.step),
            seed=self.seed,
        )
        tensors["salient"].copy_(salient)
        for rows in row_chunks(N, K, delta.device):
            levels, step = self._quantise(delta[rows], salient, rest)
            remainder = delta[rows][:, salient] - step.unsqueeze(1) * levels[:, salient]
            tensors["codes"][rows] = pack(codes_of(levels, self.bits), self.bits)
            tensors["step"][rows] = step
            tensors["values"][rows] = checked_cast(remainder, torch.float16)
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """`step · level`, plus `values` in the salient channels: `[N, K]` float32.

        Raises:
            DeltaFormatError: if the tensors are not the declared ones, or the channels not ascending and below K.
        """
        check_tensors(self, compressed)
        K, tensors = compressed.shape[1], compressed.tensors
        check_channels(self.name, tensors["salient"], K)
        delta = levels_of(unpack(tensors["codes"], self.bits, K), self.bits)
        delta.mul_(tensors["step"].unsqueeze(1))
        return delta.index_add_(1, tensors["salient"], tensors["values"].to(torch.float32))

    def _quantise(
        self, delta: torch.Tensor, salient: torch.Tensor, rest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels `[N, K]` and steps `[N]` of some rows."""
        if not self.refit:
            levels, step = quantise_rows(delta, bits=self.bits, rule=self.step)
            if self.step == "unbiased":
                step = fitted_steps(delta[:, rest], levels[:, rest], rule="unbiased")
            return levels, step
        levels = torch.empty_like(delta)
        levels[:, rest], step = quantise_rows(delta[:, rest], bits=self.bits, rule=self.step)
        # the nearest level leaves the least for the values to round
        divisor = torch.where(step > 0, step, 1.0).unsqueeze(1)
        levels[:, salient] = nearest_levels(delta[:, salient] / divisor, self.bits)
        return levels, step
