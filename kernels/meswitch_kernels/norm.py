"""`y[m] = x[m] / sqrt(mean(x[m]²) + eps) ⊙ weight_e` with `e = slots[m]`: the norm of every expert in one launch.

Where the next product reads slices (activations.py), the same launch writes them. Every program of a row finds the
row's norm and its largest element for itself, and writes one chunk: that costs less than a second launch.
"""

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
from meswitch_kernels.rows import RowVectors, check_slots

__all__ = ["load_vector", "rms_norm"]

_BC = 1024

MAX_ROW = 16384
"""Longest row that a program holds in registers."""


@jit
def load_vector(base, experts, slot, stride, o_k, K, EXPERTS: tl.constexpr):
    """Elements `o_k` of the vector of `slot`; 0 from K on."""
    if EXPERTS:
        # two loads of which one reads nothing, because a chosen pointer would hide that it is aligned
        b_base = tl.load(base + o_k, mask=o_k < tl.where(slot < 0, K, 0), other=0.0)
        b_own = tl.load(experts + slot * stride + o_k, mask=o_k < tl.where(slot < 0, 0, K), other=0.0)
        b_v = tl.where(slot < 0, b_base, b_own)
    else:
        b_v = tl.load(base + o_k, mask=o_k < K, other=0.0)
    return b_v


@jit
def _rms_norm_kernel(
    y,  # [M, K]
    x,  # [M, K]
    base,  # [K] float32
    experts,  # [E, K] float32
    slots,  # [M] int32
    slices,  # [M, 4, P, KB] int8
    sums,  # [M, chunks, 4] int32
    inverse,  # [M] float32
    stride_ym,
    stride_xm,
    stride_ee,
    K,
    KB,
    chunks,
    eps,
    BITS: tl.constexpr,
    BA: tl.constexpr,
    BC: tl.constexpr,
    CHUNK: tl.constexpr,
    EXPERTS: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i_m = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1)
    x += i_m * stride_xm
    slot = tl.load(slots + i_m).to(tl.int64) if EXPERTS else tl.full([], -1, tl.int64)
    o_k = tl.arange(0, BA)
    m_k = o_k < K
    b_x = tl.load(x + o_k, mask=m_k, other=0.0).to(tl.float32)
    b_w = load_vector(base, experts, slot, stride_ee, o_k, K, EXPERTS)
    scale = tl.rsqrt(tl.sum(b_x * b_x, axis=0) / K + eps)
    b_y = (b_x * scale * b_w).to(y.dtype.element_ty)
    if BITS == 0:
        tl.store(y + i_m * stride_ym + o_k, b_y, mask=m_k)
    else:
        top = tl.max(magnitude(b_y.to(tl.float32)), axis=0)
        o_c = i_c * BC + tl.arange(0, BC)
        m_c = o_c < K
        b_x = tl.load(x + o_c, mask=m_c, other=0.0).to(tl.float32)
        b_w = load_vector(base, experts, slot, stride_ee, o_c, K, EXPERTS)
        b_y = (b_x * scale * b_w).to(y.dtype.element_ty)
        tl.store(y + i_m * stride_ym + o_c, b_y, mask=m_c)
        store_slices(b_y.to(tl.float32), top, slices, sums, inverse, i_m, i_c, chunks, KB, BITS, BC, CHUNK)


def rms_norm(
    x: torch.Tensor, weight: RowVectors, slots: torch.Tensor | None = None, *, eps: float, bits: float | None = None
) -> torch.Tensor | SlicedActivations:
    """`[M, K]` like `x`, computed in float32 and rounded once. Same contract as `reference.rms_norm_ref`.

    Args:
        x: `[M, K]` float16, bfloat16 or float32, K at most 16,384.
        weight: vectors of K numbers.
        slots: of each row, `[M]` int32, -1 for the base; None if all are the base.
        eps: added to the mean of squares.
        bits: code width of the arenas that read the result; the answer is then what `slice_activations` makes of it,
            to the last bit.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(x)
    if x.ndim != 2 or x.stride(1) != 1 or x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise UnsupportedShapeError(f"x must be [M, K] float16, bfloat16 or float32, got {list(x.shape)} {x.dtype}")
    M, K = x.shape
    if K != weight.K or not 0 < K <= MAX_ROW:
        raise UnsupportedShapeError(f"K must be {weight.K} as in the weight and at most {MAX_ROW}, got {K}")
    check_slots(slots, M)
    y = torch.empty(M, K, dtype=x.dtype, device=x.device)
    sliced = None if bits is None else empty_slices(y, bits=bits)
    slices, sums, inverse, KB, chunks = slice_arguments(sliced, y)
    base, experts, stride = weight.arguments()
    rows = slots is not None and weight.experts is not None
    if M:
        _rms_norm_kernel[(M, 1 if sliced is None else triton.cdiv(K, _BC))](
            y, x, base, experts, slots if rows else x, slices, sums, inverse,
            y.stride(0), x.stride(0), stride, K, KB, chunks, eps,
            BITS=bits or 0, BA=triton.next_power_of_2(K), BC=_BC, CHUNK=CHUNK, EXPERTS=rows,
            EARLY=supports_early_launch(x), enable_fp_fusion=True,
            num_warps=4 if K <= 1024 else 8 if K <= 4096 else 16, **early_launch(x),
        )  # fmt: skip
    return y if sliced is None else sliced
