"""Activations as exact integers in the order in which packed codes are read.

A row `x[m]` becomes 31-bit fixed point, `x = v * inverse` with one power of two a row, and `v` is cut into four signed
bytes, `v = Σ_t 256^t d_t`. Products of codes and bytes are summed in 32-bit integers on the tensor cores, so a result
does not depend on the order of the sum: not on tiles, not on the batch around the row.

Byte `c` of a row of packed codes holds `P = 8 / bits` codes; position p of all bytes belongs to one contiguous row of
bytes here, `[M, 4, P, row_bytes]`. docs/kernels/delta_matmul.md has the index arithmetic.

Signed positions have 0.75 or 0.5 "bits" (groups of 4 and 8): P is 32 or 16, a row has as many bytes as make it K, and
at 0.5 sums and differences of neighbours take the place of the elements; docs/kernels/sparse_sign.md has their order.
"""

from dataclasses import dataclass

import torch

from meswitch_kernels.arena import MAX_K
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import check_available, jit, supports_early_launch, tl, triton
from meswitch_kernels.packing import BITS, words_per_row
from meswitch_kernels.sparse_packing import PLANE_BITS

__all__ = [
    "CHUNK",
    "SlicedActivations",
    "empty_slices",
    "magnitude",
    "slice_activations",
    "slice_arguments",
    "store_slices",
]

SLICES = 4
"""Signed bytes of one activation: 31 bits, so that FP32 inputs lose nothing that matters."""

CHUNK = 1024
"""Elements of a row that share a sum."""

_ORDERS = (*BITS, *PLANE_BITS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicedActivations:
    """`x` and its integer form, for every arena of the same K and bits.

    Attributes:
        x: the activations, `[M, K]`.
        slices: bytes `d_t`, `[M, 4, P, row_bytes]` int8; zero where a code is padding.
        sums: `Σ_k d_t` over chunks, `[M, chunks, 4]` int32; for levels that have an offset.
        inverse: the unit of `v`, `[M]` float32; NaN if the row holds an infinity or a NaN.
        bits: code width whose order the bytes follow.
    """

    x: torch.Tensor
    slices: torch.Tensor
    sums: torch.Tensor
    inverse: torch.Tensor
    bits: float


@jit
def magnitude(b_x):
    """Bits of the absolute values: these integers compare like what they spell, and a NaN is above infinity."""
    return b_x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@jit
def _digit(b_v):
    """The lowest signed byte, and what remains above it."""
    b_d = (b_v << 24) >> 24
    return b_d, (b_v - b_d) >> 8


@jit
def store_slices(
    b_x,  # [BC] float32, elements i_c * BC and on; 0 beyond K
    top,  # of the whole row
    slices,  # [M, 4, P, KB] int8
    sums,  # [M, chunks, 4] int32
    inverse,  # [M] float32
    i_m,
    i_c,
    chunks,
    KB,
    BITS: tl.constexpr,
    BC: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Writes BC elements of a row, whole chunks, in integer form; the row's first program writes its unit, too."""
    P: tl.constexpr = 16 if BITS == 0.5 else 32 if BITS == 0.75 else 8 // BITS
    # |x| < 2^(exponent - 126), so x * 2^(156 - exponent) is below 2^30; a sum of two x takes a bit more
    exponent = tl.minimum(tl.maximum((282 if BITS == 0.5 else 283) - (top >> 23), 1), 253)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    if i_c == 0:
        unit = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
        tl.store(inverse + i_m, tl.where(top >= 0x7F800000, float("nan"), unit))
    # what is not finite has no integer; the unit already marks its row
    b_v = (tl.where(tl.abs(b_x) < float("inf"), b_x, 0.0) * scale).to(tl.int32)
    if BITS == 0.5:
        b_0, b_1 = tl.split(tl.reshape(b_v, (BC // 2, 2)))
        b_v = tl.reshape(tl.join(b_0 + b_1, b_0 - b_1), (BC,))
    b_0, b_v = _digit(b_v)
    b_1, b_v = _digit(b_v)
    b_2, b_3 = _digit(b_v)
    # [BC, 4]: all bytes of an element together, so that they change places once
    b_d = tl.reshape(tl.join(tl.join(b_0, b_2), tl.join(b_1, b_3)), (BC, 4))
    o_h = i_c * (BC // CHUNK) + tl.arange(0, BC // CHUNK)
    i_h = sums + (i_m * chunks + o_h)[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(i_h, tl.sum(tl.reshape(b_d, (BC // CHUNK, CHUNK, 4)), axis=1), mask=(o_h < chunks)[:, None])
    if BITS == 0.5:
        # byte 4b + q holds, at position 8h + 4d + j, d = 0 or 1 of pair j of group 4h + q of block b
        b_d = tl.reshape(b_d.to(tl.int8), (BC // 64, 2, 4, 4, 2, 4))
        b_d = tl.permute(b_d, (5, 1, 4, 3, 0, 2))
    elif BITS == 0.75:
        # byte 4c + q holds, at position 16u + 8e + 4h + j, element j of group 2 * (4h + q) + e of block 2c + u
        b_d = tl.reshape(b_d.to(tl.int8), (BC // 128, 2, 2, 4, 2, 4, 4))
        b_d = tl.permute(b_d, (6, 1, 4, 2, 5, 0, 3))
    else:
        # byte 4j + q of a block of 64 holds, at position p, the element j + 2 * BITS * (q * P + p)
        b_d = tl.reshape(b_d.to(tl.int8), (BC // 64, 4, P, 2 * BITS, 4))
        b_d = tl.permute(b_d, (4, 2, 0, 3, 1))
    b_d = tl.reshape(b_d, (4 * P, BC // P))
    o_b = i_c * (BC // P) + tl.arange(0, BC // P)
    i_s = slices + (i_m * 4 * P + tl.arange(0, 4 * P))[:, None] * KB + o_b[None, :]
    tl.store(i_s, b_d, mask=(o_b < KB)[None, :])


@jit
def _slice_kernel(
    x,  # [M, K]
    slices,  # [M, 4, P, KB] int8
    sums,  # [M, chunks, 4] int32
    inverse,  # [M] float32
    stride_xm,
    K,
    KB,
    BITS: tl.constexpr,
    BA: tl.constexpr,
    BC: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        # the product may be launched now; it waits for the end of this kernel before it reads
        tl.extra.cuda.gdc_launch_dependents()
    i_m = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1)
    x += i_m * stride_xm
    b_top = tl.zeros([BA], dtype=tl.int32)
    for k in range(0, K, BA):
        o_k = k + tl.arange(0, BA)
        b_x = tl.load(x + o_k, mask=o_k < K, other=0.0).to(tl.float32)
        b_top = tl.maximum(b_top, magnitude(b_x))
    o_c = i_c * BC + tl.arange(0, BC)
    b_x = tl.load(x + o_c, mask=o_c < K, other=0.0).to(tl.float32)
    store_slices(b_x, tl.max(b_top, axis=0), slices, sums, inverse, i_m, i_c, tl.num_programs(1), KB, BITS, BC, BC)


def slice_activations(x: torch.Tensor, *, bits: float) -> SlicedActivations:
    """`x` `[M, K]` in integer form; computed once and shared by every layer that reads the same `x`.

    Args:
        bits: code width of the arenas it is for.

    Raises:
        UnsupportedShapeError: for a dtype, K or bits outside the kernels' range.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(x)
    sliced = empty_slices(x, bits=bits)
    M, K = x.shape
    if M:
        _slice_kernel[(M, sliced.sums.shape[1])](
            x, sliced.slices, sliced.sums, sliced.inverse, x.stride(0), K, sliced.slices.shape[3],
            BITS=bits, BA=min(16384, triton.next_power_of_2(K)), BC=CHUNK,
            EARLY=supports_early_launch(x), enable_fp_fusion=True, num_warps=4 if K <= 1024 else 8 if K <= 4096 else 16,
        )  # fmt: skip
    return sliced


def empty_slices(x: torch.Tensor, *, bits: float) -> SlicedActivations:
    """Room for the integer form of `x` `[M, K]`; a kernel that makes `x` writes both.

    Raises:
        UnsupportedShapeError: for a dtype, K or bits outside the kernels' range.
    """
    if x.ndim != 2 or x.dtype not in (torch.float16, torch.bfloat16, torch.float32) or x.stride(1) != 1:
        raise UnsupportedShapeError(f"x must be [M, K] float16, bfloat16 or float32, got {list(x.shape)} {x.dtype}")
    if bits not in _ORDERS or not 0 < x.shape[1] <= MAX_K:
        raise UnsupportedShapeError(f"bits must be one of {_ORDERS} and K at most {MAX_K}, got {bits}, {x.shape[1]}")
    M, K = x.shape
    positions, row_bytes = _positions(K, bits)
    return SlicedActivations(
        x=x,
        slices=torch.empty(M, SLICES, positions, row_bytes, dtype=torch.int8, device=x.device),
        sums=torch.empty(M, triton.cdiv(K, CHUNK), SLICES, dtype=torch.int32, device=x.device),
        inverse=torch.empty(M, dtype=torch.float32, device=x.device),
        bits=bits,
    )


def slice_arguments(
    sliced: SlicedActivations | None, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    """Slices, sums, inverse, bytes of a row and chunks, as a kernel takes them; `x` and 0 where nothing is sliced."""
    if sliced is None:
        return x, x, x, 0, 0
    return sliced.slices, sliced.sums, sliced.inverse, sliced.slices.shape[3], sliced.sums.shape[1]


def _positions(K: int, bits: float) -> tuple[int, int]:
    """P, and the bytes of a row of one position, whole registers of four."""
    if bits in BITS:
        return 8 // int(bits), 4 * words_per_row(K, int(bits))
    positions = 16 if bits == PLANE_BITS[8] else 32
    return positions, 4 * triton.cdiv(K, 4 * positions)
