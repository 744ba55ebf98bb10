"""A vector parameter of the base and of every expert: norms and biases, exact, chosen row by row."""

from dataclasses import dataclass

import torch

from meswitch_kernels.errors import UnsupportedShapeError

__all__ = ["RowVectors", "check_slots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowVectors:
    """One vector of K numbers for each slot.

    Attributes:
        base: of rows with slot -1, `[K]` float32.
        experts: of rows with a slot, `[E, K]` float32, contiguous in a slot; None if all rows take the base's.
    """

    base: torch.Tensor
    experts: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.base.ndim != 1 or self.base.dtype != torch.float32 or not self.base.is_contiguous():
            raise UnsupportedShapeError(
                f"base must be contiguous [K] float32, got {list(self.base.shape)} {self.base.dtype}"
            )
        experts = self.experts
        if experts is not None and (
            experts.ndim != 2
            or experts.shape[1] != self.K
            or experts.dtype != torch.float32
            or not experts[:1].is_contiguous()
        ):
            raise UnsupportedShapeError(
                f"experts must be [E, {self.K}] float32, contiguous in a slot, "
                f"got {list(experts.shape)} {experts.dtype}"
            )

    @property
    def K(self) -> int:  # noqa: N802 - a dimension
        """Numbers of a vector."""
        return self.base.shape[0]

    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Base, experts and their stride, as a kernel takes them; the base again where there are no experts."""
        if self.experts is None:
            return self.base, self.base, 0
        return self.base, self.experts, self.experts.stride(0)


def check_slots(slots: torch.Tensor | None, rows: int) -> None:
    """Nothing, if `slots` is None or has one int32 for each row.

    Raises:
        UnsupportedShapeError: otherwise.
    """
    if slots is not None and (slots.shape != (rows,) or slots.dtype != torch.int32):
        raise UnsupportedShapeError(f"slots must be [{rows}] int32, got {list(slots.shape)} {slots.dtype}")
