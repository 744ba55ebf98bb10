"""`W + D̂_e`, written out: what a dense cache keeps, and what prefill of very many rows multiplies by.

One pass over memory: the base and the codes are read, the merged matrix is written.
"""

import torch

from meswitch_kernels.arena import DeltaArena, slot_tensor
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import check_available, jit, tl, triton
from meswitch_kernels.sparse_arena import SparseArena

__all__ = ["merge_weight"]


@jit
def _merge_kernel(
    out,  # [N, K]
    weight,  # [N, K]
    codes,  # [E, N, W] int32
    steps,  # [E, N] float32
    index,  # [E, N // GN, S] int32
    values,  # [E, N, S] float16
    slot,  # int32
    stride_on,
    stride_wn,
    stride_ce,
    stride_se,
    stride_ie,
    stride_ve,
    N,
    K,
    W,
    GN,
    S: tl.constexpr,
    BITS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    WORDS: tl.constexpr = 2 * BITS
    i_e = tl.load(slot).to(tl.int64)
    codes += i_e * stride_ce
    steps += i_e * stride_se
    index += i_e * stride_ie
    values += i_e * stride_ve
    i_k = tl.program_id(0)
    i_n = tl.program_id(1).to(tl.int64)
    o_n = i_n * BN + tl.arange(0, BN)
    o_k = i_k * BK + tl.arange(0, BK)
    b_n = tl.minimum(o_n, N - 1)
    m_k = (o_k < K)[None, :]
    b_w = tl.load(weight + b_n[:, None] * stride_wn + o_k[None, :], mask=m_k, other=0.0).to(tl.float32)
    # element j + i * WORDS of a block of 64 is code i of word j; neighbours find their words in the same cache line
    b_c = tl.load(codes + b_n[:, None] * W + (o_k // 64 * WORDS + o_k % WORDS)[None, :], mask=m_k, other=0)
    b_c = (b_c >> (o_k % 64 // WORDS * BITS)[None, :]) & ((1 << BITS) - 1)
    b_step = tl.load(steps + b_n)
    if BITS == 8:
        b_w += (b_c - 128).to(tl.float32) * b_step[:, None]
    else:
        b_w += (2 * b_c - ((1 << BITS) - 1)).to(tl.float32) * (0.5 * b_step)[:, None]
    b_w = _with_values(b_w, index, values, b_n, o_k, i_n, i_k, GN, S, BN, BK)
    m_o = (o_n < N)[:, None] & m_k
    tl.store(out + o_n[:, None] * stride_on + o_k[None, :], b_w.to(out.dtype.element_ty), mask=m_o)


@jit
def _sparse_merge_kernel(
    out,  # [N, K]
    weight,  # [N, K]
    codes,  # [E, KEEP, N, UNITS] int32
    signs,  # [E, KEEP, N, UNITS] int16; not read at groups of 8
    steps,  # [E, N] float32
    index,  # [E, N // GN, S] int32
    values,  # [E, N, S] float16
    slot,  # int32
    stride_on,
    stride_wn,
    stride_ce,
    stride_ge,
    stride_se,
    stride_ie,
    stride_ve,
    N,
    K,
    UNITS,
    GN,
    S: tl.constexpr,
    GROUP: tl.constexpr,
    KEEP: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    FIELD: tl.constexpr = 4 if GROUP == 8 else 2
    i_e = tl.load(slot).to(tl.int64)
    codes += i_e * stride_ce
    signs += i_e * stride_ge
    steps += i_e * stride_se
    index += i_e * stride_ie
    values += i_e * stride_ve
    i_k = tl.program_id(0)
    i_n = tl.program_id(1).to(tl.int64)
    o_n = i_n * BN + tl.arange(0, BN)
    o_k = i_k * BK + tl.arange(0, BK)
    b_n = tl.minimum(o_n, N - 1)
    m_k = (o_k < K)[None, :]
    b_w = tl.load(weight + b_n[:, None] * stride_wn + o_k[None, :], mask=m_k, other=0.0).to(tl.float32)
    b_level = tl.zeros([BN, BK], dtype=tl.int32)
    # the group of an element in its block, and its place there
    group = (o_k % 64 // GROUP)[None, :]
    place = (o_k % GROUP)[None, :]
    for plane in tl.static_range(KEEP):
        i_c = (plane * N + b_n[:, None]) * UNITS + (o_k // 64)[None, :]
        b_c = tl.load(codes + i_c, mask=m_k, other=0) >> (FIELD * group)
        b_negative = b_c >> 3 if GROUP == 8 else tl.load(signs + i_c, mask=m_k, other=0).to(tl.int32) >> group
        b_level += tl.where((b_c & (GROUP - 1)) == place, 1 - 2 * (b_negative & 1), 0)
    b_w += b_level.to(tl.float32) * tl.load(steps + b_n)[:, None]
    b_w = _with_values(b_w, index, values, b_n, o_k, i_n, i_k, GN, S, BN, BK)
    m_o = (o_n < N)[:, None] & m_k
    tl.store(out + o_n[:, None] * stride_on + o_k[None, :], b_w.to(out.dtype.element_ty), mask=m_o)


@jit
def _with_values(b_w, index, values, b_n, o_k, i_n, i_k, GN, S: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """`b_w` `[BN, BK]` with the salient values of its columns."""
    for s in tl.static_range(S):
        channel = tl.load(index + i_n * BN // GN * S + s)
        if channel // BK == i_k:
            b_v = tl.load(values + b_n * S + s).to(tl.float32)
            b_w += tl.where((o_k == channel)[None, :], b_v[:, None], 0.0)
    return b_w


def merge_weight(
    weight: torch.Tensor, arena: DeltaArena | SparseArena, slot: int | torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """`weight + D_hat[slot]`, `[N, K]`, rounded once to `weight`'s dtype.

    Args:
        weight: the base, `[N, K]`.
        slot: the expert, from 0; or where the device finds it, as for `fused_matmul`.
        out: where to write; by default a new tensor.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(weight)
    N, K, S = arena.N, arena.K, arena.salient
    out = torch.empty_like(weight) if out is None else out
    for name, tensor in (("weight", weight), ("out", out)):
        if tuple(tensor.shape) != (N, K) or tensor.stride(1) != 1 or tensor.dtype != weight.dtype:
            raise UnsupportedShapeError(f"{name} must be [{N}, {K}] {weight.dtype}, got {list(tensor.shape)}")
    if isinstance(slot, int) and not 0 <= slot < arena.slots:
        raise UnsupportedShapeError(f"slot must be from 0 to {arena.slots - 1}, got {slot}")
    BN, BK = 16, 256
    if arena.group_rows % BN and arena.group_rows != N:
        raise UnsupportedShapeError(f"a salient group must be whole tiles of {BN} rows, got {arena.group_rows}")
    grid = (triton.cdiv(K, BK), triton.cdiv(N, BN))
    slot = slot_tensor(slot, weight.device)
    vectors = (arena.steps, arena.salient_index, arena.salient_values)
    strides = tuple(vector.stride(0) for vector in vectors)
    if isinstance(arena, SparseArena):
        codes, signs = arena.codes, arena.signs if arena.group == 4 else arena.codes
        _sparse_merge_kernel[grid](
            out, weight, codes, signs, *vectors, slot, out.stride(0), weight.stride(0),
            codes.stride(0), signs.stride(0), *strides, N, K, codes.shape[-1], arena.group_rows,
            S=S, GROUP=arena.group, KEEP=arena.keep, BN=BN, BK=BK, enable_fp_fusion=True, num_warps=4,
        )  # fmt: skip
        return out
    _merge_kernel[grid](
        out, weight, arena.codes, *vectors, slot, out.stride(0), weight.stride(0),
        arena.codes.stride(0), *strides, N, K, arena.codes.shape[2], arena.group_rows,
        S=S, BITS=arena.bits, BN=BN, BK=BK, enable_fp_fusion=True, num_warps=4,
    )  # fmt: skip
    return out
