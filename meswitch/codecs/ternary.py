"""The largest magnitudes, wherever they lie, as signs with one scale. After ComPEFT (Yadav et al., arXiv 2311.13171).

A sign has no fixed place in a row: a form to store and to dequantise, not one for a kernel to expand in registers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_cast, checked_delta
from meswitch.codecs.options import check_choice, options_of
from meswitch.codecs.quantise import row_chunks
from meswitch.errors import CodecOptionError, DeltaFormatError
from meswitch_kernels.packing import pack, unpack, words_per_row

__all__ = ["Ternary"]

Scope = Literal["matrix", "row"]
Scale = Literal["std", "mse", "unbiased"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ternary:
    """`D̂ = step · sign(D)` where the magnitude is among the largest, 0 elsewhere. Zeros are never kept.

    Attributes:
        density: the share of elements that are kept, above 0 and at most 1; at least one is.
        scope: of both the comparison of magnitudes and the step: the whole `matrix` or each `row`.
        step: `std`, the standard deviation of all elements of the scope; `mse`, the mean magnitude of the kept ones;
            `unbiased`, with which `⟨D, D̂⟩ = ‖D‖²` over the scope.
        alpha: a factor of the step.
    """

    name: ClassVar[str] = "ternary"
    gain_tensors: ClassVar[tuple[str, ...]] = ("step",)

    density: float = 0.2
    scope: Scope = "row"
    step: Scale = "unbiased"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self.name, "scope", self.scope, get_args(Scope))
        check_choice(self.name, "step", self.step, get_args(Scale))
        if not 0 < self.density <= 1:
            raise CodecOptionError(f"codec ternary: density must be above 0 and at most 1, got {self.density}")
        if not 0 < self.alpha < float("inf"):
            raise CodecOptionError(f"codec ternary: alpha must be finite and above 0, got {self.alpha}")

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """`mask`, `signs` and `step`.

        * `mask`: where elements are kept, packed bits, `[N, words]` int32.
        * `signs`: one bit per element that may be kept, in row-major order, packed as one row, `[1, words]` int32.
        * `step`: float32, `[1]` for a matrix, `[N]` for rows.
        """
        scopes, elements = (1, N * K) if self.scope == "matrix" else (N, K)
        return {
            "mask": TensorSpec((N, words_per_row(K, 1)), torch.int32),
            "signs": TensorSpec((1, words_per_row(scopes * self._kept(elements), 1)), torch.int32),
            "step": TensorSpec((scopes,), torch.float32),
        }

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` as a mask, signs and steps; calibration is not used.

        Raises:
            ValueError: if the delta is not a finite matrix, or a step does not fit float32.
        """
        del input_square_sum
        delta = checked_delta(delta).contiguous()
        N, K = delta.shape
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        if not delta.is_meta:
            scopes = delta.view(tensors["step"].shape[0], -1)
            mask = torch.empty_like(delta, dtype=torch.bool)
            for rows in row_chunks(scopes.shape[0], scopes.shape[1], delta.device):
                kept = _largest(scopes[rows].abs(), self._kept(scopes.shape[1]))
                mask.view_as(scopes)[rows] = kept
                tensors["step"][rows] = checked_cast(self.alpha * self._steps(scopes[rows], kept), torch.float32)
            tensors["mask"] = pack(mask.to(torch.uint8), 1)
            signs = torch.zeros(1, self._slots(N, K), dtype=torch.uint8, device=delta.device)
            found = (delta[mask] < 0).to(torch.uint8)
            signs[0, : len(found)] = found
            tensors["signs"] = pack(signs, 1)
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """`±step` where the mask is set, `[N, K]` float32.

        Raises:
            DeltaFormatError: if the tensors are not the declared ones, or the mask keeps more than there are signs for.
        """
        check_tensors(self, compressed)
        (N, K), tensors = compressed.shape, compressed.tensors
        slots = self._slots(N, K)
        signs = 1.0 - 2.0 * unpack(tensors["signs"], 1, slots)[0]
        step = tensors["step"].expand(N)
        delta = torch.empty(N, K, device=step.device)
        before = 0
        for rows in row_chunks(N, K, step.device):
            mask = unpack(tensors["mask"][rows], 1, K)
            # the number of each kept element in row-major order
            number = mask.view(-1).cumsum(0).add_(before - 1)
            if not mask.is_meta:
                before = int(number[-1]) + 1
                if before > slots:
                    raise DeltaFormatError(f"codec ternary: the mask must keep at most {slots}, got {before} and more")
            kept = signs.gather(0, number.clamp_(min=0)).view_as(mask)
            delta[rows] = kept.mul_(mask).mul_(step[rows].unsqueeze(1))
        return delta

    def _kept(self, elements: int) -> int:
        return max(1, round(self.density * elements))

    def _slots(self, N: int, K: int) -> int:
        return self._kept(N * K) if self.scope == "matrix" else N * self._kept(K)

    def _steps(self, delta: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """The step of each scope, float64, for scopes `[scopes, elements]`; 0 where nothing is kept."""
        if self.step == "std":
            return delta.to(torch.float64).std(dim=1, correction=0)
        along = delta.abs().mul_(kept).sum(dim=1, dtype=torch.float64)
        if self.step == "mse":
            return along / kept.sum(dim=1).clamp(min=1)
        energy = delta.to(torch.float64).square_().sum(dim=1)
        return torch.where(along > 0, energy / along, 0.0)


def _largest(magnitude: torch.Tensor, count: int) -> torch.Tensor:
    """Where each of `magnitude` `[scopes, elements]` has its `count` largest values above 0; of equals the first."""
    smallest = magnitude.kthvalue(magnitude.shape[1] - count + 1, dim=1, keepdim=True).values
    above, equal = magnitude > smallest, magnitude == smallest
    left = count - above.sum(dim=1, keepdim=True)
    return (above | (equal & (equal.cumsum(dim=1) <= left))) & (magnitude > 0)
