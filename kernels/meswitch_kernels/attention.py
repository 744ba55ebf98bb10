"""`softmax(q Kᵀ · scale) V` for one new token of each sequence, over a cache that grouped heads share: decode.

Positions are split among programs. How many splits there are depends on the cache's heads alone, and where they lie on
the sequence's own length, read on the device: a row's answer does not depend on the others, and one captured graph
serves every length. A program takes all heads that share a key head, so that keys and values are read once. A second
launch joins the splits in order.
"""

import math

import torch

from meswitch_kernels.activations import (
    CHUNK,
    SlicedActivations,
    empty_slices,
    magnitude,
    slice_arguments,
    store_slices,
)
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import check_available, early_launch, jit, supports_early_launch, tl, triton

__all__ = ["decode_attention"]

MAX_SHARED = 16
"""Most query heads that share a key head."""

# measured on an H100: docs/kernels/step.md
_PROGRAMS = 64
_SPAN, _BT, _WARPS, _STAGES = 64, 64, 4, 2
_JOINED, _JOIN_SHARE = 4096, 256
_WIDTHS = (16, 32, 64, 128, 256)


@jit
def _extent(length, window, SPLITS: tl.constexpr, SPAN: tl.constexpr, BT: tl.constexpr):
    """First position, and positions of a split, of a row of `length`."""
    start = tl.maximum(length - window, 0) if window > 0 else length * 0
    span = tl.maximum(tl.cdiv(tl.cdiv(length - start, SPLITS), BT) * BT, SPAN)
    return start, span


@jit
def _split_kernel(
    parts,  # [B, H, SPLITS, D] float32
    weights,  # [B, H, SPLITS] float32: logarithms to base 2
    q,  # [B, H, D]
    keys,  # [R, G, T, D]
    values,  # [R, G, T, D]
    rows,  # [B]
    lengths,  # [B] int32
    stride_qb,
    stride_qh,
    stride_kr,
    stride_kg,
    stride_kt,
    stride_vr,
    stride_vg,
    stride_vt,
    window,
    scale,
    H: tl.constexpr,
    SHARED: tl.constexpr,
    SPLITS: tl.constexpr,
    SPAN: tl.constexpr,
    D: tl.constexpr,
    BH: tl.constexpr,
    BT: tl.constexpr,
    PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i_s = tl.program_id(0)
    i_g = tl.program_id(1)
    i_b = tl.program_id(2).to(tl.int64)
    o_d = tl.arange(0, D)
    o_h = tl.arange(0, BH)
    o_t = tl.arange(0, BT)
    m_h = o_h < SHARED
    i_h = i_g * SHARED + o_h
    # asked for together, before it is known whether there is work
    length = tl.load(lengths + i_b)
    row = tl.load(rows + i_b).to(tl.int64)
    b_q = tl.load(q + i_b * stride_qb + i_h[:, None] * stride_qh + o_d[None, :], mask=m_h[:, None], other=0.0)
    start, span = _extent(length, window, SPLITS, SPAN, BT)
    first = start + i_s * span
    last = tl.minimum(first + span, length)
    if first >= last:
        return
    keys += row * stride_kr + i_g.to(tl.int64) * stride_kg
    values += row * stride_vr + i_g.to(tl.int64) * stride_vg
    b_top = tl.full([BH], float("-inf"), tl.float32)
    b_sum = tl.zeros([BH], tl.float32)
    b_acc = tl.zeros([BH, D], tl.float32)
    for t in range(first, last, BT):
        m_t = t + o_t < last
        # [BT, D]
        b_k = tl.load(keys + (t + o_t)[:, None] * stride_kt + o_d[None, :], mask=m_t[:, None], other=0.0)
        b_v = tl.load(values + (t + o_t)[:, None] * stride_vt + o_d[None, :], mask=m_t[:, None], other=0.0)
        b_s = tl.dot(b_q, b_k.T, input_precision=PRECISION) * scale
        b_s = tl.where(m_t[None, :], b_s, float("-inf"))
        b_new = tl.maximum(b_top, tl.max(b_s, axis=1))
        b_p = tl.exp2(b_s - b_new[:, None])
        b_old = tl.exp2(b_top - b_new)
        b_sum = b_sum * b_old + tl.sum(b_p, axis=1)
        b_acc = tl.dot(b_p.to(b_v.dtype), b_v, acc=b_acc * b_old[:, None], input_precision=PRECISION)
        b_top = b_new
    i_p = (i_b * H + i_h) * SPLITS + i_s
    tl.store(parts + i_p[:, None] * D + o_d[None, :], b_acc / b_sum[:, None], mask=m_h[:, None])
    tl.store(weights + i_p, b_top + tl.log2(b_sum), mask=m_h)


@jit
def _join(y, parts, weights, i_b, first, used, H, SPLITS: tl.constexpr, D: tl.constexpr, BH: tl.constexpr):
    """The heads `[first, first + BH)` of row `i_b`, `[BH * D]`; zeros where no split was used."""
    o_h = first + tl.arange(0, BH)
    o_d = tl.arange(0, D)
    i_p = (i_b * H + o_h) * SPLITS
    m_h = o_h < H
    b_top = tl.full([BH], float("-inf"), tl.float32)
    for s in tl.static_range(SPLITS):
        # what no split wrote is read and dropped: the loads need not wait for the length
        b_w = tl.load(weights + i_p + s, mask=m_h, other=float("-inf"))
        b_top = tl.maximum(b_top, tl.where(s < used, b_w, float("-inf")))
    # a row that is not in use has no split, no maximum and no sum
    b_top = tl.where(b_top == float("-inf"), 0.0, b_top)
    b_sum = tl.zeros([BH], tl.float32)
    b_acc = tl.zeros([BH, D], tl.float32)
    # a thread adds its own elements, in order
    for s in tl.static_range(SPLITS):
        b_w = tl.load(weights + i_p + s, mask=m_h, other=float("-inf"))
        b_w = tl.exp2(tl.where(s < used, b_w, float("-inf")) - b_top)
        b_part = tl.load(parts + (i_p + s)[:, None] * D + o_d[None, :], mask=m_h[:, None], other=0.0)
        b_sum += b_w
        b_acc += tl.where(s < used, b_part, 0.0) * b_w[:, None]
    b_y = b_acc / tl.where(b_sum == 0.0, 1.0, b_sum)[:, None]
    return tl.reshape(b_y.to(y.dtype.element_ty), (BH * D,))


@jit
def _join_kernel(
    y,  # [B, H * D]
    parts,  # [B, H, SPLITS, D] float32
    weights,  # [B, H, SPLITS] float32
    lengths,  # [B] int32
    slices,  # [B, 4, P, KB] int8
    sums,  # [B, chunks, 4] int32
    inverse,  # [B] float32
    window,
    KB,
    chunks,
    H: tl.constexpr,
    SPLITS: tl.constexpr,
    SPAN: tl.constexpr,
    D: tl.constexpr,
    BH: tl.constexpr,
    BT: tl.constexpr,
    BITS: tl.constexpr,
    CHUNK: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i_b = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1)
    length = tl.load(lengths + i_b)
    start, span = _extent(length, window, SPLITS, SPAN, BT)
    used = tl.cdiv(length - start, span)
    b_y = _join(y, parts, weights, i_b, i_c * BH, used, H, SPLITS, D, BH)
    o_y = i_c * BH * D + tl.arange(0, BH * D)
    tl.store(y + i_b * H * D + o_y, b_y, mask=o_y < H * D)
    if BITS > 0:
        b_top = magnitude(b_y.to(tl.float32))
        if BH < H:
            for h in range(0, H, BH):
                b_row = _join(y, parts, weights, i_b, h, used, H, SPLITS, D, BH)
                b_top = tl.maximum(b_top, magnitude(b_row.to(tl.float32)))
        top = tl.max(b_top, axis=0)
        store_slices(b_y.to(tl.float32), top, slices, sums, inverse, i_b, i_c, chunks, KB, BITS, BH * D, CHUNK)


def decode_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    rows: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None = None,
    bits: float | None = None,
) -> torch.Tensor | SlicedActivations:
    """`[B, H * D]` like `q`: what each row's heads found. Same contract as `reference.decode_attention_ref`.

    Args:
        q: one token of each sequence, `[B, H, D]`; D a power of two from 16 to 256.
        keys, values: the cache, `[R, G, T, D]`; at most 16 query heads share one of its G heads.
        rows: each sequence's row of the cache, `[B]` int32 or int64; not used where the length is 0.
        lengths: positions that each row attends to, `[B]` int32, at most T (not checked on the device); 0 for a row
            that is not in use, whose answer is zeros.
        scale: of the scores.
        window: only the last so many positions; None for all.
        bits: code width of the arenas that read the result; the answer is then what `slice_activations` makes of it.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(q)
    _check(q, keys, values, rows, lengths, window)
    (B, H, D), G = q.shape, keys.shape[1]
    y = torch.empty(B, H * D, dtype=q.dtype, device=q.device)
    sliced = None if bits is None else empty_slices(y, bits=bits)
    splits = _splits(G)
    slices, sums, inverse, KB, chunks = slice_arguments(sliced, y)
    parts = torch.empty(B, H, splits, D, dtype=torch.float32, device=q.device)
    weights = torch.empty(B, H, splits, dtype=torch.float32, device=q.device)
    early = supports_early_launch(q)
    if B:
        _split_kernel[(splits, G, B)](
            parts, weights, q, keys, values, rows, lengths, q.stride(0), q.stride(1), *keys.stride()[:3],
            *values.stride()[:3], window or 0, scale / math.log(2),
            H=H, SHARED=H // G, SPLITS=splits, SPAN=_SPAN, D=D, BH=16, BT=_BT,
            PRECISION="ieee" if q.dtype == torch.float32 else None, EARLY=early,
            enable_fp_fusion=True, num_warps=_WARPS, num_stages=_STAGES, **early_launch(q),
        )  # fmt: skip
        # slices need the row's largest element: a program takes as much of the row as its registers hold
        joined = CHUNK if sliced is None else min(_JOINED, triton.next_power_of_2(max(H * D, CHUNK)))
        _join_kernel[(B, triton.cdiv(H * D, joined))](
            y, parts, weights, lengths, slices, sums, inverse, window or 0, KB, chunks,
            H=H, SPLITS=splits, SPAN=_SPAN, D=D, BH=joined // D, BT=_BT, BITS=bits or 0, CHUNK=CHUNK, EARLY=early,
            enable_fp_fusion=True, num_warps=joined // _JOIN_SHARE, **early_launch(q),
        )  # fmt: skip
    return y if sliced is None else sliced


def _splits(kv_heads: int) -> int:
    """Programs among which the positions of a row are split, for each of its key heads."""
    return min(16, max(8, _PROGRAMS // int(triton.next_power_of_2(kv_heads))))


def _check(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: torch.Tensor,
    lengths: torch.Tensor,
    window: int | None,
) -> None:
    if q.ndim != 3 or q.shape[2] not in _WIDTHS or q.stride(2) != 1:
        raise UnsupportedShapeError(f"q must be [B, H, D] with D one of {_WIDTHS}, got {list(q.shape)}")
    B, H, D = q.shape
    if keys.ndim != 4 or keys.shape != values.shape or keys.shape[3] != D or keys.stride(3) != 1:
        raise UnsupportedShapeError(
            f"keys and values must be [R, G, T, {D}], got {list(keys.shape)} and {list(values.shape)}"
        )
    if values.stride(3) != 1 or q.dtype != keys.dtype or q.dtype != values.dtype:
        raise UnsupportedShapeError(f"keys and values must be of neighbours and {q.dtype}, got {keys.dtype}")
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise UnsupportedShapeError(f"q must be float16, bfloat16 or float32, got {q.dtype}")
    if H % keys.shape[1] or H // keys.shape[1] > MAX_SHARED:
        raise UnsupportedShapeError(
            f"a key head must be shared by 1 to {MAX_SHARED} query heads, got {H} and {keys.shape[1]}"
        )
    if rows.shape != (B,) or rows.dtype not in (torch.int32, torch.int64):
        raise UnsupportedShapeError(f"rows must be [{B}] int32 or int64, got {list(rows.shape)} {rows.dtype}")
    if lengths.shape != (B,) or lengths.dtype != torch.int32:
        raise UnsupportedShapeError(f"lengths must be [{B}] int32, got {list(lengths.shape)} {lengths.dtype}")
    if window is not None and window < 1:
        raise UnsupportedShapeError(f"window must be at least 1, got {window}")
