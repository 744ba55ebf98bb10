"""What every kernel of this package computes, in FP32 and without haste.

M is the rows of activations, N the output and K the input dimension, E the expert slots, S the salient channels.
"""

import torch

from meswitch_kernels.arena import DeltaArena, level_offset
from meswitch_kernels.packing import unpack

__all__ = ["delta_matmul_ref", "delta_rows_ref", "delta_weight_ref", "fused_matmul_ref"]


def delta_weight_ref(arena: DeltaArena, slot: int) -> torch.Tensor:
    """`D_hat` of one slot, `[N, K]` float32."""
    levels = unpack(arena.codes[slot], arena.bits, arena.K).float() - level_offset(arena.bits)
    weight = levels * arena.steps[slot][:, None]
    groups = arena.N // arena.group_rows
    for index, part, values in zip(
        arena.salient_index[slot].view(groups, arena.salient).long(),
        weight.chunk(groups),
        arena.salient_values[slot].float().chunk(groups),
        strict=True,
    ):
        part.index_add_(1, index, values)
    return weight


def delta_matmul_ref(y: torch.Tensor, x: torch.Tensor, arena: DeltaArena, slot_of_row: torch.Tensor) -> torch.Tensor:
    """`y[m] + x[m] @ D_hat[slot_of_row[m]].T`, `[M, N]` float32; `y[m]` where the slot is -1."""
    out = y.float().clone()
    for m, slot in enumerate(slot_of_row.tolist()):
        if slot >= 0:
            out[m] += x[m].float() @ delta_weight_ref(arena, slot).T
    return out


def fused_matmul_ref(x: torch.Tensor, weight: torch.Tensor, arena: DeltaArena, slot: int) -> torch.Tensor:
    """`x @ (weight + D_hat[slot]).T`, `[M, N]` float32; the base alone if `slot` is -1."""
    if slot < 0:
        return x.float() @ weight.float().T
    return x.float() @ (weight.float() + delta_weight_ref(arena, slot)).T


def delta_rows_ref(
    y: torch.Tensor, row_ids: torch.Tensor, arena: DeltaArena, slot_of_row: torch.Tensor
) -> torch.Tensor:
    """`y[m] + D_hat[slot_of_row[m]][row_ids[m]]`, `[M, K]` float32: the delta of an embedding table."""
    out = y.float().clone()
    for m, (slot, row) in enumerate(zip(slot_of_row.tolist(), row_ids.tolist(), strict=True)):
        if slot >= 0:
            out[m] += delta_weight_ref(arena, slot)[row]
    return out
