"""`delta_matmul` of signed positions: `y[m] += step_e ⊙ (x[m] · levels_eᵀ) + x[m, salient_e] · values_eᵀ`.

The design of delta_matmul.py: weights are the M side of an int8 tensor-core product, four bytes of each activation of a
few rows its N side. A byte permutation looks four codes up at once: four levels -1, 0 or 1. At groups of 8, a code has
more bits than it can look up; there pairs of neighbours are replaced by their sum and their difference, which a code
meets with one sign each. docs/kernels/sparse_sign.md has the derivation, the order of bytes and the floor.
"""

import torch

from meswitch_kernels.activations import SlicedActivations
from meswitch_kernels.delta_output import add_product, load_output
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.grouping import RowGroups
from meswitch_kernels.launch import interpreting, jit, supports_early_launch, tl, triton
from meswitch_kernels.sparse_arena import SparseArena
from meswitch_kernels.tiling import DeltaMatmulConfig

__all__ = ["levels_asm", "selectors_asm", "sparse_config", "sparse_matmul"]

_ENOUGH_ROWS = 8192
"""Output channels of all tiles from which tall programs keep a large GPU busy."""


@jit
def _words(codes, signs, b_n, o_w, UNITS, GROUP: tl.constexpr, EVEN: tl.constexpr):
    """What the levels of some bytes of a position are looked up with: registers of packed codes, and of packed signs.

    int8 at groups of 8, where four bytes are a word; at groups of 4 int16 and int8, where four pairs are the words and
    the signs of two blocks.
    """
    WIDTH: tl.constexpr = 4 if GROUP == 8 else 2
    m_w = None if EVEN else o_w < UNITS * WIDTH
    other: tl.constexpr = None if EVEN else 0
    i_w = b_n * UNITS * WIDTH + o_w
    b_w = tl.load(codes + i_w, mask=m_w, other=other)
    b_s = tl.load(signs + i_w, mask=m_w, other=other) if GROUP == 4 else b_w
    return b_w, b_s


@jit
def _selectors(b_w, b_s, GROUP: tl.constexpr, ASM: tl.constexpr):
    """Codes as selectors, four of which one permutation looks up.

    `ASM` is the whole tuple: a string taken out of it is no constexpr in Triton 3.6, and no argument there.
    """
    if GROUP == 8:
        return tl.inline_asm_elementwise(
            ASM[0], "=&r,=&r,=&r,=&r,r", [b_w], dtype=(tl.int8, tl.int8, tl.int8, tl.int8), is_pure=True, pack=4
        )
    else:
        return tl.inline_asm_elementwise(
            ASM[0], "=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,r,r,r", [b_w, b_s],
            dtype=(tl.int8, tl.int8, tl.int8, tl.int8, tl.int8, tl.int8, tl.int8, tl.int8), is_pure=True, pack=4,
        )  # fmt: skip


@jit
def _decoded(codes, signs, b_n, o_w, p: tl.constexpr, UNITS, GROUP: tl.constexpr):
    """The levels of position p without PTX, int8: each byte looks for its own word."""
    q = o_w % 4
    if GROUP == 8:
        second: tl.constexpr = p // 4 % 2
        block = o_w // 4
        b_w = tl.load(codes + b_n * UNITS + block, mask=block < UNITS, other=0)
        b_c = (b_w >> (4 * (p // 8 * 4 + q))) & 15
        b_negative = b_c >> 3
        if second:
            b_negative = b_negative ^ (b_c & 1)
        b_here = (b_c & 7) >> 1 == p % 4
    else:
        block = o_w // 4 * 2 + p // 16
        group = 2 * (p // 4 % 2 * 4 + q) + p // 8 % 2
        i_w = b_n * UNITS + block
        b_here = ((tl.load(codes + i_w, mask=block < UNITS, other=0) >> (2 * group)) & 3) == p % 4
        b_negative = (tl.load(signs + i_w, mask=block < UNITS, other=0).to(tl.int32) >> group) & 1
    return tl.where(b_here, 1 - 2 * b_negative, 0).to(tl.int8)


@jit
def _multiplied(
    b_acc,  # [BM, NC], or of each part of K
    slices,
    codes,
    signs,
    b_n,  # [BM, 1]
    o_w,  # [1, BKB]
    i_x,  # [BKB, NC]
    m_x,
    N,
    UNITS,
    KB,
    GROUP: tl.constexpr,
    KEEP: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
):
    """`b_acc`, with the products of some bytes of all positions."""
    for plane in tl.static_range(KEEP):
        if ASM is not None:
            b_w, b_s = _words(codes, signs, plane * N + b_n, o_w, UNITS, GROUP, EVEN)
            b_select = _selectors(b_w, b_s, GROUP, ASM)
        for p in tl.static_range(16 if GROUP == 8 else 32):
            # the second plane finds them in the L1 cache
            b_x = tl.load(slices + i_x + p * KB, mask=m_x, other=0)
            if ASM is not None:
                b_l = tl.inline_asm_elementwise(
                    ASM[1 + p % 4], "=r,r", [b_select[p // 4]], dtype=tl.int8, is_pure=True, pack=4
                )
            else:
                b_l = _decoded(codes, signs, plane * N + b_n, o_w, p, UNITS, GROUP)
            b_acc = tl.dot(b_l, b_x, acc=b_acc, out_dtype=tl.int32)
    return b_acc


@jit
def _sparse_matmul_kernel(
    y,  # [M, N]
    x,  # [M, K]
    slices,  # [M, 4, P, KB] int8
    inverse,  # [M] float32
    codes,  # [E, KEEP, N, UNITS] int32; with PTX, int8 at groups of 8 and int16 at groups of 4
    signs,  # [E, KEEP, N, UNITS] int16, with PTX int8; not read at groups of 8
    steps,  # [E, N] float32
    index,  # [E, N // GN, S] int32
    values,  # [E, N, S] float16
    tile_slot,  # [B] int32
    tile_rows,  # [B, R] int32
    stride_ym,
    stride_xm,
    stride_ce,
    stride_ge,
    stride_se,
    stride_ie,
    stride_ve,
    N,
    UNITS,
    KB,
    GN,
    GROUP: tl.constexpr,
    KEEP: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    BM: tl.constexpr,
    BKB: tl.constexpr,
    SK: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
    EARLY: tl.constexpr,
):
    P: tl.constexpr = 16 if GROUP == 8 else 32
    NC: tl.constexpr = 4 * R
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
    signs += slot * stride_ge
    steps += slot * stride_se
    index += slot * stride_ie
    values += slot * stride_ve
    # rows beyond N are read again and not stored
    b_n = tl.minimum(i_n * BM + tl.arange(0, BM), N - 1)
    o_c = tl.arange(0, NC)
    b_row = tl.load(tile_rows + i_t * R + o_c // 4)
    m_c = b_row >= 0
    b_column = (b_row.to(tl.int64) * 4 + o_c % 4) * P * KB
    b_out, b_unit, b_base, b_step, b_index, b_value = load_output(y, inverse, steps, index, values, tile_rows, i_n,
                                                                  i_t, stride_ym, N, GN, R, S, SP, BM)  # fmt: skip
    if SK == 1:
        b_acc = tl.zeros([BM, NC], dtype=tl.int32)
        for k in range(0, KB, BKB):
            o_k = k + tl.arange(0, BKB)
            m_x = m_c[None, :] if EVEN else m_c[None, :] & (o_k < KB)[:, None]
            i_x = b_column[None, :] + o_k[:, None]
            b_acc = _multiplied(b_acc, slices, codes, signs, b_n[:, None], o_k[None, :], i_x, m_x, N, UNITS, KB, GROUP,
                                KEEP, EVEN, ASM)  # fmt: skip
    else:
        # each warp sums its own part of K, so that a few programs still keep many loads in flight
        part = tl.cdiv(KB, SK * BKB) * BKB
        b_part = tl.zeros([SK, BM, NC], dtype=tl.int32)
        for k in range(0, part, BKB):
            o_k = (tl.arange(0, SK) * part)[:, None] + (k + tl.arange(0, BKB))[None, :]
            m_x = m_c[None, None, :] if EVEN else m_c[None, None, :] & (o_k < KB)[:, :, None]
            i_x = b_column[None, None, :] + o_k[:, :, None]
            b_part = _multiplied(b_part, slices, codes, signs, b_n[None, :, None], o_k[:, None, :], i_x, m_x, N, UNITS,
                                 KB, GROUP, KEEP, EVEN, ASM)  # fmt: skip
        b_acc = tl.sum(b_part, axis=0)
    # sums and differences of neighbours count every element twice
    FACTOR: tl.constexpr = 0.5 if GROUP == 8 else 1.0
    add_product(y, x, b_acc, b_out, b_unit, b_base, b_step, b_index, b_value, i_n, stride_ym, stride_xm, N, FACTOR,
                R, S, SP, BM)  # fmt: skip


def sparse_matmul(
    y: torch.Tensor,
    x: SlicedActivations,
    arena: SparseArena,
    groups: RowGroups,
    *,
    config: DeltaMatmulConfig | None = None,
    inline_asm: bool | None = None,
    launch_early: bool | None = None,
) -> torch.Tensor:
    """`y` itself, with the deltas' product added in place: what `delta_matmul` calls, and its contract.

    Raises:
        UnsupportedShapeError: for tiles that do not fit.
    """
    M, N = y.shape
    config = config or sparse_config(arena, rows=M, width=groups.width)
    if not _fits(arena, config.BM):
        raise UnsupportedShapeError(f"a salient group must be whole tiles of {config.BM} rows, got {arena.group_rows}")
    asm = not interpreting() if inline_asm is None else inline_asm
    early = config.launch_early and supports_early_launch(y) if launch_early is None else launch_early
    units, KB, S = arena.codes.shape[-1], x.slices.shape[3], arena.salient
    codes, signs = arena.codes, arena.signs if arena.group == 4 else arena.codes
    if asm:
        codes, signs = (
            (codes.view(torch.int8),) * 2 if arena.group == 8 else (codes.view(torch.int16), signs.view(torch.int8))
        )
    _sparse_matmul_kernel[(M, triton.cdiv(N, config.BM))](
        y, x.x, x.slices, x.inverse, codes, signs, arena.steps, arena.salient_index, arena.salient_values,
        groups.slot, groups.rows, y.stride(0), x.x.stride(0), codes.stride(0), signs.stride(0), arena.steps.stride(0),
        arena.salient_index.stride(0), arena.salient_values.stride(0), N, units, KB, arena.group_rows,
        GROUP=arena.group, KEEP=arena.keep, R=groups.width, S=S, SP=max(16, triton.next_power_of_2(S)),
        BM=config.BM, BKB=config.BKB, SK=config.SK, EVEN=KB % (config.BKB * config.SK) == 0 and units % 2 == 0,
        ASM=(selectors_asm(arena.group), *levels_asm()) if asm else None, EARLY=early,
        enable_fp_fusion=True, num_warps=config.warps, num_stages=config.stages,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip
    return y


def sparse_config(arena: SparseArena, *, rows: int, width: int) -> DeltaMatmulConfig:
    """Tile sizes for a batch of `rows` in tiles of `width`: chosen by counting instructions, not measured yet."""
    BKB = 64 if arena.group == 8 else 32
    if max(1, rows // width) * arena.N >= _ENOUGH_ROWS and _fits(arena, 64):
        # wide tiles take registers and shared memory from what streams by
        return DeltaMatmulConfig(BM=64, BKB=2 * BKB if width <= 2 else BKB, warps=2 if width <= 4 else 4, stages=2)
    # where programs are few, the warps of each share its rows
    row = arena.K // (16 if arena.group == 8 else 32)
    SK = next(parts for parts in (4, 2, 1) if row % (BKB * parts) == 0 or parts == 1)
    return DeltaMatmulConfig(BM=16, BKB=BKB, SK=SK, warps=SK)


def _fits(arena: SparseArena, BM: int) -> bool:
    """Whether no tile spans two lists of salient channels."""
    return arena.group_rows == arena.N or arena.group_rows % BM == 0


def selectors_asm(group: int) -> str:
    """PTX that turns registers of packed codes into selectors of byte permutations, four codes in 16 bits each.

    A selector's nibble is `sign << 2 | place`, place one of four. At groups of 8 `$4` is a word: `$0` and `$2` are the
    two halves of its codes with the signs that sums meet, `$1` and `$3` with those that differences meet; the place is
    that of a pair. At groups of 4 `$8` and `$9` are the words of two blocks and `$10` their signs; for each word, two
    halves of the even groups come first, then two of the odd ones.
    """
    if group == 8:
        lines = [
            _shifted("t", "$4", 1), "and.b32 $0, t, 0x77777777;",
            "shl.b32 t, $4, 2;", "and.b32 t, t, 0x44444444;", "xor.b32 $1, $0, t;",
            _shifted("$2", "$0", 16), _shifted("$3", "$1", 16),
        ]  # fmt: skip
        return _asm(lines, shifts=(1, 16))
    lines = [_shifted("o", "$10", 1)]
    for block in range(2):
        word, first = f"${8 + block}", 4 * block
        for parity, signs in enumerate(("$10", "o")):
            low, high = f"${first + 2 * parity}", f"${first + 2 * parity + 1}"
            # bits 0 and 2 of a nibble of signs go to bits 2 and 6 of a byte: those of every other group
            lines += [_shifted("t", signs, 16) if block else f"mov.b32 t, {signs};"]
            lines += ["and.b32 t, t, 0x7777;", "prmt.b32 e, 0x04000400, 0x44404440, t;"]
            lines += [_shifted("t", word, 2) if parity else f"mov.b32 t, {word};"]
            lines += ["and.b32 t, t, 0x33333333;", f"or.b32 {low}, t, e;", _shifted(high, low, 16)]
    return _asm(lines, shifts=(1, 2, 16))


def levels_asm() -> tuple[str, ...]:
    """PTX that looks up the levels of four codes in one place, for each of four places.

    A permutation takes one constant; of two, the compiler would move one into a register before each.
    """
    tables = ((1 << 8 * j, 0xFF << 8 * j) for j in range(4))
    return tuple(_asm([f"or.b32 t, z, {plus:#x};", f"prmt.b32 $0, t, {minus:#x}, $1;"]) for plus, minus in tables)


def _shifted(target: str, source: str, count: int) -> str:
    """`source >> count` on the multipliers, which have nothing else to do here."""
    return f"mul.hi.u32 {target}, {source}, c{count};"


def _asm(lines: list[str], *, shifts: tuple[int, ...] = ()) -> str:
    """A block of PTX in which `z` is 0 and the compiler does not know it.

    The lanes below one and that lane share no bit. Constants with `z` in them stay in registers, and a multiplication
    by them is not made a shift.
    """
    registers = ", ".join(["t", "e", "o", "z", *(f"c{count}" for count in shifts)])
    head = [f".reg .b32 {registers};", "mov.u32 z, %lanemask_lt;", "mov.u32 t, %lanemask_eq;", "and.b32 z, z, t;"]
    head += [f"or.b32 c{count}, z, {1 << 32 - count:#x};" for count in shifts]
    return "{ " + " ".join([*head, *lines]) + " }"
