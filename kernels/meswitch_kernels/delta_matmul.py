"""`y[m] += step_e ⊙ (x[m] · levels_eᵀ) + x[m, salient_e] · values_eᵀ` with `e = slot_of_row[m]`: decode.

Weights are the M side of an int8 tensor-core product, four bytes of each activation of a few rows its N side
(activations.py). One shift and one mask turn a 32-bit register of packed codes into four int8 codes; the affine part
of the levels is subtracted at the end. docs/kernels/delta_matmul.md has the derivation and the floor.
"""

import torch

from meswitch_kernels.activations import SlicedActivations, slice_activations
from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.delta_output import add_product, load_output
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.grouping import RowGroups, group_rows, tile_width
from meswitch_kernels.launch import check_available, device_name, interpreting, jit, supports_early_launch, tl, triton
from meswitch_kernels.sparse_arena import SparseArena
from meswitch_kernels.sparse_matmul import sparse_matmul
from meswitch_kernels.tiling import DeltaMatmulConfig
from meswitch_kernels.tuned import delta_config

__all__ = ["delta_matmul"]


@jit
def _codes_at(b_w, p: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr):
    """The codes at position p of every byte, as int8; at 8 bits, the level itself."""
    if ASM is not None:
        b_c = tl.inline_asm_elementwise(ASM[p], "=r,r", [b_w], dtype=tl.int8, is_pure=True, pack=4)
    elif BITS == 8:
        b_c = b_w ^ -128
    else:
        # the shift copies the sign bit, and the mask removes the copies
        b_c = (b_w >> (p * BITS)) & ((1 << BITS) - 1)
    return b_c


@jit
def _tile(
    y,
    x,
    slices,
    sums,
    inverse,
    codes,
    steps,
    index,
    values,
    tile_rows,
    i_n,
    i_t,
    stride_ym,
    stride_xm,
    N,
    KB,
    CHUNKS,
    GN,
    R: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    CH: tl.constexpr,
    BITS: tl.constexpr,
    BM: tl.constexpr,
    BKB: tl.constexpr,
    SK: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
):
    """BM output channels of the first R rows of one tile of rows."""
    P: tl.constexpr = 8 // BITS
    NC: tl.constexpr = 4 * R
    o_n = i_n * BM + tl.arange(0, BM)
    # rows beyond N are read again and not stored
    b_n = tl.minimum(o_n, N - 1)
    o_c = tl.arange(0, NC)
    b_row = tl.load(tile_rows + i_t * R + o_c // 4)
    m_c = b_row >= 0
    b_column = (b_row.to(tl.int64) * 4 + o_c % 4) * P * KB
    # what the end needs is asked for now, and arrives while the codes stream
    o_h = tl.arange(0, CH)
    b_sums = tl.load(
        sums + (b_row[None, :] * CHUNKS + o_h[:, None]) * 4 + (o_c % 4)[None, :],
        mask=m_c[None, :] & (o_h < CHUNKS)[:, None],
        other=0,
    )
    b_out, b_unit, b_base, b_step, b_index, b_value = load_output(y, inverse, steps, index, values, tile_rows, i_n,
                                                                  i_t, stride_ym, N, GN, R, S, SP, BM)  # fmt: skip
    if SK == 1:
        b_acc = tl.zeros([BM, NC], dtype=tl.int32)
        for k in range(0, KB, BKB):
            o_k = k + tl.arange(0, BKB)
            if EVEN:
                b_w = tl.load(codes + b_n[:, None] * KB + o_k[None, :])
            else:
                b_w = tl.load(codes + b_n[:, None] * KB + o_k[None, :], mask=(o_k < KB)[None, :], other=0)
            for p in tl.static_range(P):
                # [BKB, NC]
                m_x = m_c[None, :] if EVEN else m_c[None, :] & (o_k < KB)[:, None]
                b_x = tl.load(slices + b_column[None, :] + (p * KB + o_k)[:, None], mask=m_x, other=0)
                b_acc = tl.dot(_codes_at(b_w, p, BITS, ASM), b_x, acc=b_acc, out_dtype=tl.int32)
    else:
        # each warp sums its own part of K, so that a few programs still keep many loads in flight
        part = tl.cdiv(KB, SK * BKB) * BKB
        o_part = tl.arange(0, SK) * part
        b_part = tl.zeros([SK, BM, NC], dtype=tl.int32)
        for k in range(0, part, BKB):
            o_k = o_part[:, None] + (k + tl.arange(0, BKB))[None, :]
            m_k = o_k < KB
            b_w = tl.load(
                codes + b_n[None, :, None] * KB + o_k[:, None, :],
                mask=None if EVEN else m_k[:, None, :],
                other=None if EVEN else 0,
            )
            for p in tl.static_range(P):
                m_x = m_c[None, None, :] if EVEN else m_c[None, None, :] & m_k[:, :, None]
                b_x = tl.load(slices + b_column[None, None, :] + (p * KB + o_k)[:, :, None], mask=m_x, other=0)
                b_part = tl.dot(_codes_at(b_w, p, BITS, ASM), b_x, acc=b_part, out_dtype=tl.int32)
        b_acc = tl.sum(b_part, axis=0)

    # 2 * level = 2 * code - (2^BITS - 1), exact in integers; 8-bit codes are levels already
    b_acc *= 2
    if BITS != 8:
        b_acc -= ((1 << BITS) - 1) * tl.sum(b_sums, axis=0)[None, :]
    add_product(y, x, b_acc, b_out, b_unit, b_base, b_step, b_index, b_value, i_n, stride_ym, stride_xm, N, 0.5,
                R, S, SP, BM)  # fmt: skip


@jit
def _delta_matmul_kernel(
    y,  # [M, N]
    x,  # [M, K]
    slices,  # [M, 4, P, KB] int8
    sums,  # [M, CHUNKS, 4] int32
    inverse,  # [M] float32
    codes,  # [E, N, KB] int8
    steps,  # [E, N] float32
    index,  # [E, N // GN, S] int32
    values,  # [E, N, S] float16
    tile_slot,  # [B] int32
    tile_rows,  # [B, R] int32
    stride_ym,
    stride_xm,
    stride_ce,
    stride_se,
    stride_ie,
    stride_ve,
    N,
    KB,
    CHUNKS,
    GN,
    R: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    CH: tl.constexpr,
    BITS: tl.constexpr,
    BM: tl.constexpr,
    BKB: tl.constexpr,
    SK: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
    EARLY: tl.constexpr,
):
    # tiles are the fast axis: those that share an expert meet in the L2 cache
    i_t = tl.program_id(0).to(tl.int64)
    i_n = tl.program_id(1).to(tl.int64)
    if EARLY:
        # everything read from here on may be the work of the kernel ahead
        tl.extra.cuda.gdc_wait()
    slot = tl.load(tile_slot + i_t).to(tl.int64)
    if slot < 0:
        return
    codes += slot * stride_ce
    steps += slot * stride_se
    index += slot * stride_ie
    values += slot * stride_ve
    _tile(y, x, slices, sums, inverse, codes, steps, index, values, tile_rows, i_n, i_t, stride_ym, stride_xm,
          N, KB, CHUNKS, GN, R, S, SP, CH, BITS, BM, BKB, SK, EVEN, ASM)  # fmt: skip


def delta_matmul(
    y: torch.Tensor,
    x: torch.Tensor | SlicedActivations,
    arena: DeltaArena | SparseArena,
    slot_of_row: torch.Tensor | RowGroups,
    *,
    config: DeltaMatmulConfig | None = None,
    inline_asm: bool | None = None,
    launch_early: bool | None = None,
) -> torch.Tensor:
    """`y` itself, with the deltas' product added in place. Same contract as `reference.delta_matmul_ref`.

    Rows with slot -1 are left as they are. The added term is the same to the last bit whatever else is in the batch.

    Args:
        y: the base's product, `[M, N]` float16, bfloat16 or float32; modified.
        x: activations `[M, K]`, or what `slice_activations` made of them for `arena.bits`.
        slot_of_row: slots `[M]` int32, or what `group_rows` made of them; ids must be below `arena.slots`.
        config: tile sizes; by default the tuned ones of this GPU.
        inline_asm: unpack by PTX; by default, except in the interpreter.
        launch_early: launch while the kernel ahead drains; by default, where the device can and tuning found it pays.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(y)
    sliced = x if isinstance(x, SlicedActivations) else slice_activations(x, bits=arena.bits)
    groups = _groups(slot_of_row, arena)
    _check(y, sliced, arena, groups)
    if isinstance(arena, SparseArena):
        return sparse_matmul(y, sliced, arena, groups, config=config, inline_asm=inline_asm, launch_early=launch_early)
    config = config or delta_config(
        device_name(y.device),
        rows=y.shape[0],
        width=groups.width,
        N=arena.N,
        row_bytes=arena.row_bytes,
        group_rows=arena.group_rows,
    )
    if arena.group_rows % config.BM and arena.group_rows != arena.N:
        raise UnsupportedShapeError(f"a salient group must be whole tiles of {config.BM} rows, got {arena.group_rows}")
    M, N = y.shape
    asm = not interpreting() if inline_asm is None else inline_asm
    early = config.launch_early and supports_early_launch(y) if launch_early is None else launch_early
    S, KB, width, chunks = arena.salient, arena.row_bytes, groups.width, sliced.sums.shape[1]
    codes = arena.codes.view(torch.int8)
    grid = (M, triton.cdiv(N, config.BM))
    _delta_matmul_kernel[grid](
        y, sliced.x, sliced.slices, sliced.sums, sliced.inverse,
        codes, arena.steps, arena.salient_index, arena.salient_values, groups.slot, groups.rows,
        y.stride(0), sliced.x.stride(0), codes.stride(0), arena.steps.stride(0), arena.salient_index.stride(0),
        arena.salient_values.stride(0), N, KB, chunks, arena.group_rows,
        R=width, S=S, SP=max(16, triton.next_power_of_2(S)), CH=triton.next_power_of_2(chunks), BITS=arena.bits,
        BM=config.BM, BKB=config.BKB, SK=config.SK,
        EVEN=KB % (config.BKB * config.SK) == 0, ASM=unpack_asm(arena.bits) if asm else None, EARLY=early,
        enable_fp_fusion=True, num_warps=config.warps, num_stages=config.stages,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip
    return y


def unpack_asm(bits: int) -> tuple[str, ...]:
    """PTX that turns a register of packed codes into four int8 codes, for each position of a byte."""
    if bits == 8:
        return ("xor.b32 $0, $1, 0x80808080;",)
    mask = 0x01010101 * ((1 << bits) - 1)
    first = f"and.b32 $0, $1, {mask:#010x};"
    shifts = range(bits, 8, bits)
    return (first, *(f"{{ .reg .b32 t; shr.u32 t, $1, {i}; and.b32 $0, t, {mask:#010x}; }}" for i in shifts))


def _check(y: torch.Tensor, x: SlicedActivations, arena: DeltaArena | SparseArena, groups: RowGroups) -> None:
    M = x.x.shape[0]
    if tuple(y.shape) != (M, arena.N) or y.stride(1) != 1:
        raise UnsupportedShapeError(f"y must be [{M}, {arena.N}] with rows of neighbours, got {list(y.shape)}")
    if y.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise UnsupportedShapeError(f"y must be float16, bfloat16 or float32, got {y.dtype}")
    if x.x.shape[1] != arena.K or x.bits != arena.bits:
        raise UnsupportedShapeError(
            f"x must be sliced for K = {arena.K} and {arena.bits} bits, got {x.x.shape[1]} and {x.bits}"
        )
    if groups.slot.shape[0] != M:
        raise UnsupportedShapeError(f"there must be one slot for each of {M} rows, got {groups.slot.shape[0]}")


def _groups(slot_of_row: torch.Tensor | RowGroups, arena: DeltaArena | SparseArena) -> RowGroups:
    if isinstance(slot_of_row, RowGroups):
        return slot_of_row
    return group_rows(slot_of_row, width=tile_width(slot_of_row.shape[0], arena.slots))
