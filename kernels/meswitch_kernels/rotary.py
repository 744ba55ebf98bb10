"""What lies between the stacked q/k/v product and attention: bias, head norms, rotation, and the write to the cache.

A head of D numbers with the halves `a` and `b` becomes `[a cos - b sin, b cos + a sin]` at its position;
values are only moved. One launch; a program takes one head of one row.
"""

import torch

from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import check_available, early_launch, jit, supports_early_launch, tl, triton
from meswitch_kernels.norm import load_vector
from meswitch_kernels.rows import RowVectors, check_slots

__all__ = ["rotary_and_store"]


@jit
def _load_halves(base, experts, slot, stride, o_d, D: tl.constexpr, EXPERTS: tl.constexpr):
    """Both halves of one head's part of the vector of `slot`."""
    b_1 = load_vector(base, experts, slot, stride, o_d, D // 2, EXPERTS)
    b_2 = load_vector(base + D // 2, experts + D // 2, slot, stride, o_d, D // 2, EXPERTS)
    return b_1, b_2


@jit
def _head_norm(b_1, b_2, base, experts, slot, stride, o_d, D: tl.constexpr, eps, EXPERTS: tl.constexpr):
    """Both halves of a head, over their root mean square, times the weight of `slot`."""
    scale = tl.rsqrt((tl.sum(b_1 * b_1, axis=0) + tl.sum(b_2 * b_2, axis=0)) / D + eps)
    b_3, b_4 = _load_halves(base, experts, slot, stride, o_d, D, EXPERTS)
    return b_1 * scale * b_3, b_2 * scale * b_4


@jit
def _rotary_kernel(
    q,  # [M, H, D]
    qkv,  # [M, (H + 2G) * D]
    cos,  # [positions, D / 2 or D] float32
    sin,  # [positions, D / 2 or D] float32
    positions,  # [M] int64
    cache_rows,  # [M]
    keys,  # [R, G, T, D]
    values,  # [R, G, T, D]
    slots,  # [M] int32
    bias,  # [(H + 2G) * D] float32
    bias_experts,  # [E, (H + 2G) * D] float32
    q_norm,  # [D] float32
    q_norm_experts,  # [E, D] float32
    k_norm,  # [D] float32
    k_norm_experts,  # [E, D] float32
    stride_xm,
    stride_cp,
    stride_sp,
    stride_kr,
    stride_kg,
    stride_kt,
    stride_vr,
    stride_vg,
    stride_vt,
    stride_be,
    stride_qe,
    stride_ke,
    angles,
    T,
    eps,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    EXPERTS: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i_m = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(1)
    o_d = tl.arange(0, BD)
    m_d = o_d < D // 2
    slot = tl.load(slots + i_m).to(tl.int64) if EXPERTS else tl.full([], -1, tl.int64)
    position = tl.load(positions + i_m)
    i_x = qkv + i_m * stride_xm + i_h * D + o_d
    b_1 = tl.load(i_x, mask=m_d, other=0.0).to(tl.float32)
    b_2 = tl.load(i_x + D // 2, mask=m_d, other=0.0).to(tl.float32)
    if BIAS:
        b_3, b_4 = _load_halves(bias + i_h * D, bias_experts + i_h * D, slot, stride_be, o_d, D, EXPERTS)
        b_1 += b_3
        b_2 += b_4
    if NORM:
        if i_h < H:
            b_1, b_2 = _head_norm(b_1, b_2, q_norm, q_norm_experts, slot, stride_qe, o_d, D, eps, EXPERTS)
        elif i_h < H + G:
            b_1, b_2 = _head_norm(b_1, b_2, k_norm, k_norm_experts, slot, stride_ke, o_d, D, eps, EXPERTS)
    row = tl.load(cache_rows + i_m).to(tl.int64)
    m_c = o_d < tl.where((row >= 0) & (position >= 0) & (position < T), D // 2, 0)
    if i_h < H + G:
        # a row that is not in use may hold any position
        place = tl.minimum(tl.maximum(position, 0), angles - 1)
        b_cos = tl.load(cos + place * stride_cp + o_d, mask=m_d, other=0.0)
        b_sin = tl.load(sin + place * stride_sp + o_d, mask=m_d, other=0.0)
        b_3 = b_1 * b_cos - b_2 * b_sin
        b_4 = b_2 * b_cos + b_1 * b_sin
        if i_h < H:
            i_q = q + (i_m * H + i_h) * D + o_d
            tl.store(i_q, b_3.to(q.dtype.element_ty), mask=m_d)
            tl.store(i_q + D // 2, b_4.to(q.dtype.element_ty), mask=m_d)
        else:
            i_k = keys + row * stride_kr + (i_h - H) * stride_kg + position * stride_kt + o_d
            tl.store(i_k, b_3.to(keys.dtype.element_ty), mask=m_c)
            tl.store(i_k + D // 2, b_4.to(keys.dtype.element_ty), mask=m_c)
    else:
        i_v = values + row * stride_vr + (i_h - H - G) * stride_vg + position * stride_vt + o_d
        tl.store(i_v, b_1.to(values.dtype.element_ty), mask=m_c)
        tl.store(i_v + D // 2, b_2.to(values.dtype.element_ty), mask=m_c)


def rotary_and_store(
    qkv: torch.Tensor,
    *,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    cache_rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    heads: int,
    kv_heads: int,
    bias: RowVectors | None = None,
    q_norm: RowVectors | None = None,
    k_norm: RowVectors | None = None,
    slots: torch.Tensor | None = None,
    eps: float = 1e-6,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The rotated queries, `[M, H, D]` like `qkv`; keys and values go into the cache.

    Same contract as `reference.rotary_and_store_ref`. Computed in float32 and rounded once.

    Args:
        qkv: the stacked product, `[M, (H + 2G) * D]`: H heads of queries, G of keys, G of values.
        cos, sin: of each position's angles, `[positions, D / 2]` float32, or `[positions, D]` that repeats them.
        positions: of each row, `[M]` int64.
        cache_rows: where each row's sequence lies in the cache, `[M]` int32 or int64; -1 writes nothing, nor does a
            position outside the cache.
        keys, values: `[R, G, T, D]`; written at `[cache_row, :, position]`.
        heads, kv_heads: H and G.
        bias: of the stacked product.
        q_norm, k_norm: weights of the norms over each head, both or none.
        slots: of each row, `[M]` int32, -1 for the base; None if all are the base.
        eps: of the norms.
        out: where to write the queries; by default a new tensor.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(qkv)
    M, H, G, D = qkv.shape[0], heads, kv_heads, keys.shape[-1]
    _check(qkv, cos, sin, positions, cache_rows, keys, values, H, G)
    _check_vectors(bias, q_norm, k_norm, (H + 2 * G) * D, D)
    check_slots(slots, M)
    q = torch.empty(M, H, D, dtype=qkv.dtype, device=qkv.device) if out is None else out
    _check_out(q, qkv, (M, H, D))
    vectors = [v.arguments() if v is not None else (cos, cos, 0) for v in (bias, q_norm, k_norm)]
    own = [v is not None and v.experts is not None for v in (bias, q_norm, k_norm)]
    BD = triton.next_power_of_2(D // 2)
    if M:
        _rotary_kernel[(M, H + 2 * G)](
            q, qkv, cos, sin, positions, cache_rows, keys, values, positions if slots is None else slots,
            *(tensor for pair in vectors for tensor in pair[:2]),
            qkv.stride(0), cos.stride(0), sin.stride(0), *keys.stride()[:3], *values.stride()[:3],
            *(stride for *_, stride in vectors), min(cos.shape[0], sin.shape[0]), keys.shape[2], eps,
            H=H, G=G, D=D, BD=BD, BIAS=bias is not None, NORM=q_norm is not None,
            EXPERTS=slots is not None and any(own), EARLY=supports_early_launch(qkv),
            enable_fp_fusion=True, num_warps=max(1, BD // 64), **early_launch(qkv),
        )  # fmt: skip
    return q


def _check(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    cache_rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    H: int,
    G: int,
) -> None:
    M, D = qkv.shape[0], keys.shape[-1]
    if keys.ndim != 4 or keys.shape[1] != G or keys.shape != values.shape:
        raise UnsupportedShapeError(
            f"keys and values must be [R, {G}, T, D], got {list(keys.shape)} and {list(values.shape)}"
        )
    if keys.stride(3) != 1 or values.stride(3) != 1:
        raise UnsupportedShapeError("the last dimension of keys and values must be of neighbours")
    if D % 2:
        raise UnsupportedShapeError(f"D must be even, got {D}")
    if qkv.ndim != 2 or qkv.shape[1] != (H + 2 * G) * D or qkv.stride(1) != 1:
        raise UnsupportedShapeError(f"qkv must be [M, {(H + 2 * G) * D}], got {list(qkv.shape)}")
    if qkv.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise UnsupportedShapeError(f"qkv must be float16, bfloat16 or float32, got {qkv.dtype}")
    for name, table in (("cos", cos), ("sin", sin)):
        if table.ndim != 2 or table.shape[1] not in (D, D // 2) or table.dtype != torch.float32 or table.stride(1) != 1:
            raise UnsupportedShapeError(
                f"{name} must be [positions, {D // 2} or {D}] float32, got {list(table.shape)} {table.dtype}"
            )
    if positions.shape != (M,) or positions.dtype != torch.int64:
        raise UnsupportedShapeError(f"positions must be [{M}] int64, got {list(positions.shape)} {positions.dtype}")
    if cache_rows.shape != (M,) or cache_rows.dtype not in (torch.int32, torch.int64):
        raise UnsupportedShapeError(
            f"cache_rows must be [{M}] int32 or int64, got {list(cache_rows.shape)} {cache_rows.dtype}"
        )


def _check_out(q: torch.Tensor, qkv: torch.Tensor, shape: tuple[int, int, int]) -> None:
    if tuple(q.shape) != shape or q.dtype != qkv.dtype or not q.is_contiguous():
        raise UnsupportedShapeError(f"out must be {list(shape)} {qkv.dtype} in a row, got {list(q.shape)} {q.dtype}")


def _check_vectors(
    bias: RowVectors | None, q_norm: RowVectors | None, k_norm: RowVectors | None, width: int, D: int
) -> None:
    if (q_norm is None) != (k_norm is None):
        raise UnsupportedShapeError("q_norm and k_norm must be given both or none")
    for name, vectors, K in (("bias", bias, width), ("q_norm", q_norm, D), ("k_norm", k_norm, D)):
        if vectors is not None and vectors.K != K:
            raise UnsupportedShapeError(f"{name} must be vectors of {K}, got {vectors.K}")
