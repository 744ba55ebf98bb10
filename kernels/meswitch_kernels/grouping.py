"""Rows that share an expert, gathered into tiles on the device, so that an expert's codes are read once a tile.

B is the rows of the batch, R the most rows of a tile.
"""

from dataclasses import dataclass

import torch

from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import check_available, jit, tl, triton

__all__ = ["RowGroups", "group_rows"]

MAX_ROWS = 512
"""Largest batch that one program can group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroups:
    """At most B tiles of rows; what one step computes once and all its layers use.

    Attributes:
        slot: expert slot of each tile, `[B]` int32; -1 for tiles that are not needed.
        rows: rows of each tile, `[B, R]` int32, ascending; -1 for places not taken.
    """

    slot: torch.Tensor
    rows: torch.Tensor

    @property
    def width(self) -> int:
        """R, the most rows of a tile."""
        return self.rows.shape[1]


@jit
def _group_kernel(slots, tile_slot, tile_rows, B, BB: tl.constexpr, R: tl.constexpr):
    o_b = tl.arange(0, BB)
    m_b = o_b < B
    b_slot = tl.load(slots + o_b, mask=m_b, other=-1)
    # [BB, BB]: column m, earlier row o
    b_earlier = (b_slot[:, None] == b_slot[None, :]) & (o_b[:, None] < o_b[None, :])
    b_rank = tl.sum(b_earlier.to(tl.int32), axis=0)
    b_starts = ((b_rank % R == 0) & (b_slot >= 0)).to(tl.int32)
    b_tile = tl.cumsum(b_starts, axis=0) - 1
    tl.store(tile_slot + o_b, tl.full([BB], -1, tl.int32), mask=m_b)
    for r in range(R):
        tl.store(tile_rows + o_b * R + r, tl.full([BB], -1, tl.int32), mask=m_b)
    # the scatter below must land after the fill above
    tl.debug_barrier()
    tl.store(tile_slot + b_tile, b_slot, mask=b_starts == 1)
    # a row belongs to the tile of the last start at or before it among the rows of its slot
    b_same = (b_slot[:, None] == b_slot[None, :]) & (b_starts[:, None] == 1) & (o_b[:, None] <= o_b[None, :])
    b_mine = tl.max(tl.where(b_same, b_tile[:, None], -1), axis=0)
    tl.store(tile_rows + b_mine * R + b_rank % R, o_b, mask=b_slot >= 0)


def group_rows(slot_of_row: torch.Tensor, *, width: int | None = None) -> RowGroups:
    """The tiles of a batch, made by one kernel without a host synchronisation.

    Args:
        slot_of_row: expert slot of each row, `[B]` int32, -1 for the base alone.
        width: R, a power of two; by default `tile_width(B, B)`.

    Raises:
        UnsupportedShapeError: for more than 512 rows, or a width that is not a power of two.
    """
    check_available(slot_of_row)
    B = slot_of_row.shape[0]
    width = tile_width(B, B) if width is None else width
    if slot_of_row.ndim != 1 or slot_of_row.dtype != torch.int32 or not 0 < B <= MAX_ROWS:
        raise UnsupportedShapeError(
            f"slot_of_row must be [B] int32 with B from 1 to {MAX_ROWS}, "
            f"got {list(slot_of_row.shape)} {slot_of_row.dtype}"
        )
    if width < 1 or width & (width - 1):
        raise UnsupportedShapeError(f"width must be a power of two, got {width}")
    slot = torch.empty(B, dtype=torch.int32, device=slot_of_row.device)
    rows = torch.empty(B, width, dtype=torch.int32, device=slot_of_row.device)
    _group_kernel[(1,)](
        slot_of_row, slot, rows, B, BB=max(16, triton.next_power_of_2(B)), R=width, enable_fp_fusion=True, num_warps=8
    )
    return RowGroups(slot=slot, rows=rows)


def tile_width(B: int, slots: int) -> int:
    """Rows of a tile for B rows over `slots` experts: their mean share, at least the 2 that cost nothing.

    Where more rows share an expert, its tiles run side by side, and all but the first find its codes in the L2 cache.
    """
    share = -(-B // min(B, slots))
    return min(16, max(2, 1 << (share - 1).bit_length()))
