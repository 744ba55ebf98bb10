"""Deltas of signed positions of one layer for every expert slot: of each group of neighbours one element, or two.

E is the number of slots, N the output and K the input dimension, S the salient channels, B the blocks of 64 elements.
"""

from dataclasses import dataclass

import torch

from meswitch_kernels.arena import ExpertArena, check_part
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.sparse_packing import PLANE_BITS, plane_shapes

__all__ = ["SparseArena"]

_KEEPS = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseArena(ExpertArena):
    """Weight deltas `D_hat[e] = steps[e][:, None] * levels(codes[e], signs[e])`, plus the salient values.

    Levels of several codes of a group add up.

    Attributes:
        codes: plane of codes, `[E, keep, N, B]` int32, `sparse_packing.SPARSE_LAYOUT`; `[E, N, B]` where keep is 1.
        signs: plane of signs, of as many dimensions, `[..., N, B]` int16; `[..., N, 0]` at groups of 8.
        group: neighbours along K that share a code, 4 or 8.
    """

    codes: torch.Tensor
    signs: torch.Tensor
    group: int

    def __post_init__(self) -> None:
        if self.group not in PLANE_BITS:
            raise UnsupportedShapeError(f"group must be one of {tuple(PLANE_BITS)}, got {self.group}")
        if self.codes.ndim not in (3, 4) or self.keep not in _KEEPS:
            raise UnsupportedShapeError(f"there must be 1 or 2 planes of codes, got {list(self.codes.shape)}")
        ExpertArena.__post_init__(self)
        planes = self.codes.shape[1:-2]
        (units, dtype), (sign_units, sign_dtype) = plane_shapes(self.K, self.group)
        check_part("codes", self.codes, (self.slots, *planes, self.N, units), dtype)
        check_part("signs", self.signs, (self.slots, *planes, self.N, sign_units), sign_dtype)

    @property
    def keep(self) -> int:
        """Codes of a group."""
        return 1 if self.codes.ndim == 3 else self.codes.shape[1]

    @property
    def bits(self) -> float:
        """Bits of one code for each of its elements: 0.75 or 0.5; activations are sliced in the order of these."""
        return PLANE_BITS[self.group]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of one plane of codes, and of its signs."""
        return 4 * self.codes.shape[-1] + 2 * self.signs.shape[-1]
