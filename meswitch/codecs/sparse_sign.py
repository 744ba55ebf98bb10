"""Signs of the few: of every group of neighbours along the input the largest magnitude, as its position and its sign.

Fixed-rate structured sparsity. The idea of keeping a fixed number of neighbours is that of N:M sparsity (Mishra et al.,
arXiv 2104.08378); one magnitude per output channel and the unbiased step make it a delta code of 0.3 to 1.5 bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_cast, checked_delta, checked_square_sum
from meswitch.codecs.groups import KEEPS, choose_codes, group_levels
from meswitch.codecs.options import check_choice, check_not_negative, options_of
from meswitch.codecs.quantise import FIT_RULES, FitRule, fitted_steps, row_chunks
from meswitch.codecs.selection import SELECT_RULES, SelectRule, check_channels, select_channels
from meswitch.errors import CodecOptionError
from meswitch_kernels.sparse_packing import GROUPS, SPARSE_LAYOUT, pack_groups, plane_shapes, unpack_groups

__all__ = ["SparseSign"]

Pick = Literal["magnitude", "wanda"]

# added to each `Σ x_k²`, as a share of their mean: calibration texts may not use a channel that others do
_DAMP = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseSign:
    """`D̂ = step · level`, where all but `keep` levels of a group are 0; plus `values` in the salient input channels.

    Attributes:
        group: neighbours along the input that share `keep` codes: 4, 8 or 16.
        keep: codes per group: 1 keeps the largest magnitude; 2 as in `choose_codes`.
        channels: how many input channels are salient. Groups do not keep their elements, which are in `values`.
        select: how they are chosen, as in `channel_scores`; `error` is that of the least-squares step.
        pick: what is the largest of a group: by `magnitude`, or by `wanda`, the magnitude times the root of `Σ x_k²`;
            the step is then fitted with these weights too.
        step: `mse` or `unbiased`, as in `fitted_steps`, over the channels that are not salient.
        seed: of `select=random`.
    """

    name: ClassVar[str] = "sparse-sign"
    gain_tensors: ClassVar[tuple[str, ...]] = ("step", "values")
    packing: ClassVar[str] = SPARSE_LAYOUT

    group: int = 4
    keep: int = 1
    channels: int = 0
    select: SelectRule = "error"
    pick: Pick = "magnitude"
    step: FitRule = "unbiased"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.name, "group", self.group, GROUPS)
        check_choice(self.name, "keep", self.keep, KEEPS)
        check_choice(self.name, "select", self.select, SELECT_RULES)
        check_choice(self.name, "pick", self.pick, get_args(Pick))
        check_choice(self.name, "step", self.step, FIT_RULES)
        check_not_negative(self.name, channels=self.channels, seed=self.seed)

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """`codes`, `signs`, `step`, `salient` and `values`.

        * `codes`, `signs`: the planes of `meswitch_kernels.sparse_packing`, `[keep, N, units]` each; the first index is
          the code's number, so that the first half of two codes is contiguous.
        * `step`: `[N]` float32.
        * `salient`: the salient input channels, `[S]` int32, ascending. * `values`: `[N, S]` float16.

        Raises:
            CodecOptionError: if there are not more than `channels` input channels.
        """
        if self.channels >= K:
            raise CodecOptionError(f"codec {self.name}: channels must be below K = {K}, got {self.channels}")
        (units, dtype), (sign_units, sign_dtype) = plane_shapes(K, self.group)
        return {
            "codes": TensorSpec((self.keep, N, units), dtype),
            "signs": TensorSpec((self.keep, N, sign_units), sign_dtype),
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
            CodecOptionError: if there are too few input channels, or `select` or `pick` needs calibration and there is
                none.
        """
        delta = checked_delta(delta)
        weights = self._weights(delta, input_square_sum)
        N, K = delta.shape
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        nothing = torch.empty(0, dtype=torch.int64, device=delta.device)
        salient, _ = select_channels(
            delta,
            count=self.channels,
            select=self.select,
            input_square_sum=input_square_sum,
            # an unbiased step that outliers have stretched would blame the channels that suffer from it
            quantise=lambda rows: self._quantise(rows, nothing, weights, "mse")[1:],
            seed=self.seed,
        )
        tensors["salient"].copy_(salient)
        for rows in row_chunks(N, K, delta.device):
            codes, levels, step = self._quantise(delta[rows], salient, weights, self.step)
            remainder = delta[rows][:, salient] - step.unsqueeze(1) * levels[:, salient]
            for plane, packed in enumerate(codes):
                tensors["codes"][plane, rows], tensors["signs"][plane, rows] = pack_groups(packed, self.group)
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
        planes = zip(tensors["codes"], tensors["signs"], strict=True)
        codes = torch.stack([unpack_groups(words, signs, self.group, K) for words, signs in planes])
        delta = group_levels(codes, group=self.group, K=K).mul_(tensors["step"].unsqueeze(1))
        return delta.index_add_(1, tensors["salient"], tensors["values"].to(torch.float32))

    def _weights(self, delta: torch.Tensor, input_square_sum: torch.Tensor | None) -> torch.Tensor | None:
        """What the squared error of each channel weighs, `[K]` float32; `None` if all weigh alike."""
        if self.pick == "magnitude":
            return None
        if input_square_sum is None:
            raise CodecOptionError(f"pick={self.pick} needs calibration texts; give them, or choose pick=magnitude")
        sums = checked_square_sum(input_square_sum, delta.shape[1]).to(delta.device)
        mean = sums.mean()
        # a linear that no token reached has no weights to go by
        return torch.where(mean > 0, sums / mean + _DAMP, 1.0).to(torch.float32)

    def _quantise(
        self, delta: torch.Tensor, salient: torch.Tensor, weights: torch.Tensor | None, rule: FitRule
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes `[keep, N, groups]`, levels `[N, K]` and steps `[N]` of some rows."""
        K = delta.shape[1]
        free = torch.zeros(K, dtype=torch.bool, device=delta.device).index_fill(0, salient, True)
        # the salient channels weigh in neither the scale nor the fit
        delta = delta.masked_fill(free, 0.0)
        codes = choose_codes(delta, group=self.group, keep=self.keep, free=free, weights=weights)
        levels = group_levels(codes, group=self.group, K=K)
        fitted = levels.masked_fill(free, 0.0)
        if weights is not None:
            # least squares and ⟨D, D̂⟩ in the output, of inputs that vary independently
            delta, fitted = delta * weights.sqrt(), fitted * weights.sqrt()
        return codes, levels, fitted_steps(delta, fitted, rule=rule)
