"""A linear layer of every expert at once: the base's product by the vendor's library, the deltas' by our kernels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from meswitch_kernels.activations import SlicedActivations
from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.delta_matmul import delta_matmul
from meswitch_kernels.fused_matmul import fused_matmul
from meswitch_kernels.grouping import RowGroups
from meswitch_kernels.merge import merge_weight
from meswitch_kernels.sparse_arena import SparseArena

__all__ = ["DeltaColumns", "StepGroups", "SwitchLinear"]


@dataclass(frozen=True, slots=True)
class DeltaColumns:
    """The deltas of output channels `start` to `stop` of a layer, in every slot."""

    arena: DeltaArena | SparseArena
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class StepGroups:
    """Rows that share an expert; `refined` are those whose second plane is in place, if there are planes."""

    rows: RowGroups
    refined: RowGroups | None


class SwitchLinear:
    """`y = x·(W + D̂_e)ᵀ` for rows of different experts e, or for many rows of one.

    Args:
        weight: W, `[N, K]`; layers of one input are stacked along N.
        deltas: of its output channels; none where whole models are swapped.
        refinements: their second planes, in the same columns; none where a codec has one plane.
    """

    def __init__(
        self, weight: torch.Tensor, deltas: tuple[DeltaColumns, ...], refinements: tuple[DeltaColumns, ...] = ()
    ) -> None:
        self.weight = weight
        self._deltas = deltas
        self._refinements = refinements

    def decode(self, x: torch.Tensor | SlicedActivations, groups: StepGroups | None) -> torch.Tensor:
        """The product `[M, N]` of one token a row."""
        return self._add_deltas(F.linear(_activations(x), self.weight), x, groups)

    def accumulate(self, y: torch.Tensor, x: torch.Tensor | SlicedActivations, groups: StepGroups | None) -> None:
        """Add the product of one token a row to `y` `[M, N]`, which the library does in the same pass."""
        self._add_deltas(y.addmm_(_activations(x), self.weight.T), x, groups)

    def prefill(self, x: torch.Tensor, slots: torch.Tensor | None, *, refined: bool) -> torch.Tensor:
        """The product `[T, N]` of many tokens of one expert, of both its planes or of the first alone.

        Args:
            x: `[T, K]`.
            slots: int32, all of that expert's slot, which the device reads; `None` is the base alone.
            refined: whether both planes count.
        """
        if slots is None or not self._deltas:
            return F.linear(x, self.weight)
        if refined and self._refinements:
            return F.linear(x, self._merged(slots))
        y = torch.empty(x.shape[0], self.weight.shape[0], dtype=x.dtype, device=x.device)
        for part in self._deltas:
            columns = slice(part.start, part.stop)
            fused_matmul(x, self.weight[columns], part.arena, slots, out=y[:, columns])
        return y

    def _merged(self, slots: torch.Tensor) -> torch.Tensor:
        """`W + D̂` of both planes, `[N, K]`."""
        merged = torch.empty_like(self.weight)
        for first, second in zip(self._deltas, self._refinements, strict=True):
            own = merged[first.start : first.stop]
            merge_weight(self.weight[first.start : first.stop], first.arena, slots, out=own)
            merge_weight(own, second.arena, slots, out=own)
        return merged

    def _add_deltas(
        self, y: torch.Tensor, x: torch.Tensor | SlicedActivations, groups: StepGroups | None
    ) -> torch.Tensor:
        if groups is None:
            return y
        for part in self._deltas:
            delta_matmul(y[:, part.start : part.stop], x, part.arena, groups.rows)
        if groups.refined is not None:
            for part in self._refinements:
                delta_matmul(y[:, part.start : part.stop], x, part.arena, groups.refined)
        return y


def _activations(x: torch.Tensor | SlicedActivations) -> torch.Tensor:
    return x.x if isinstance(x, SlicedActivations) else x
