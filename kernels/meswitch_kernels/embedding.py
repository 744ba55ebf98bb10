"""`y[m] += D̂_e[token[m]]` with `e = slot_of_row[m]`: the delta of an embedding table, one row for each token.

A row is a few kilobytes, so this is a gather and not a product; the head of a model is an ordinary `delta_matmul`.
"""

import torch

from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import check_available, jit, tl, triton
from meswitch_kernels.sparse_arena import SparseArena

__all__ = ["delta_rows"]


@jit
def _delta_rows_kernel(
    y,  # [M, K]
    tokens,  # [M] int64
    slots,  # [M] int32
    codes,  # [E, N, W] int32
    steps,  # [E, N] float32
    index,  # [E, S] int32
    values,  # [E, N, S] float16
    stride_ym,
    stride_ce,
    stride_se,
    stride_ie,
    stride_ve,
    K,
    W,
    S: tl.constexpr,
    BITS: tl.constexpr,
    BK: tl.constexpr,
):
    WORDS: tl.constexpr = 2 * BITS
    i_m = tl.program_id(0).to(tl.int64)
    o_k = tl.program_id(1) * BK + tl.arange(0, BK)
    m_k = o_k < K
    slot = tl.load(slots + i_m).to(tl.int64)
    if slot < 0:
        return
    i_n = tl.load(tokens + i_m)
    codes += slot * stride_ce + i_n * W
    values += slot * stride_ve + i_n * S
    # element j + i * WORDS of a block of 64 is code i of word j
    b_w = tl.load(codes + o_k // 64 * WORDS + o_k % WORDS, mask=m_k, other=0)
    b_c = (b_w >> (o_k % 64 // WORDS * BITS)) & ((1 << BITS) - 1)
    b_d = (b_c - 128 if BITS == 8 else b_c - 0.5 * ((1 << BITS) - 1)).to(tl.float32)
    b_d *= tl.load(steps + slot * stride_se + i_n)
    for s in tl.static_range(S):
        b_v = tl.load(values + s).to(tl.float32)
        b_d += tl.where(o_k == tl.load(index + slot * stride_ie + s), b_v, 0.0)
    b_d += tl.load(y + i_m * stride_ym + o_k, mask=m_k, other=0.0).to(tl.float32)
    tl.store(y + i_m * stride_ym + o_k, b_d.to(y.dtype.element_ty), mask=m_k)


def delta_rows(
    y: torch.Tensor, tokens: torch.Tensor, arena: DeltaArena | SparseArena, slot_of_row: torch.Tensor
) -> torch.Tensor:
    """`y` itself, with each token's delta row added in place. Same contract as `reference.delta_rows_ref`.

    Args:
        y: the base's embeddings, `[M, K]`; modified.
        tokens: table rows, `[M]` int64, below `arena.N`.
        slot_of_row: slots `[M]` int32, -1 for the base alone.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(y)
    if isinstance(arena, SparseArena):
        raise UnsupportedShapeError(f"a table's codes must be of single elements, got groups of {arena.group}")
    M, K = y.shape[0], arena.K
    if y.ndim != 2 or y.shape[1] != K or y.stride(1) != 1:
        raise UnsupportedShapeError(f"y must be [M, {K}] with rows of neighbours, got {list(y.shape)}")
    if tokens.shape != (M,) or tokens.dtype != torch.int64:
        raise UnsupportedShapeError(f"tokens must be [{M}] int64, got {list(tokens.shape)} {tokens.dtype}")
    if slot_of_row.shape != (M,) or slot_of_row.dtype != torch.int32:
        raise UnsupportedShapeError(
            f"slot_of_row must be [{M}] int32, got {list(slot_of_row.shape)} {slot_of_row.dtype}"
        )
    if arena.group_rows != arena.N:
        raise UnsupportedShapeError(f"a table must not be stacked, got groups of {arena.group_rows} rows")
    BK = min(1024, triton.next_power_of_2(K))
    if M:
        _delta_rows_kernel[(M, triton.cdiv(K, BK))](
            y, tokens, slot_of_row, arena.codes, arena.steps, arena.salient_index, arena.salient_values,
            y.stride(0), arena.codes.stride(0), arena.steps.stride(0), arena.salient_index.stride(0),
            arena.salient_values.stride(0), K, arena.codes.shape[2], S=arena.salient, BITS=arena.bits, BK=BK,
            enable_fp_fusion=True, num_warps=4,
        )  # fmt: skip
    return y
