"""`y = x · (W + D̂_e)ᵀ` on Hopper: `W + D̂` is formed in the registers from which the tensor cores read it.

Output channels are the M side of the warpgroup product, tokens its N side. One warp asks the tensor memory engine for
tiles of W and x, two gather the salient columns of x, and warpgroups form 64 channels of `W + D̂` each while the
product of the block before runs. Written in Gluon, where layouts are chosen by hand, so that nothing changes layout.
docs/kernels/fused_matmul.md has the order of the codes in these registers.
"""

import torch

from meswitch_kernels.arena import DeltaArena, slot_tensor
from meswitch_kernels.hopper import (
    RENAMED,
    TensorDescriptor,
    available,
    constexpr_function,
    gl,
    gluon_jit,
    hopper,
    load_tile,
    mbarrier,
    processors,
    store_tile,
    tma,
)
from meswitch_kernels.launch import jit, tl, triton
from meswitch_kernels.levels import warpgroup_asm
from meswitch_kernels.tiling import FusedMatmulConfig

__all__ = ["covers", "warpgroup_matmul"]

_SALIENT = 16
"""Salient channels that one product of the tensor cores takes."""


@constexpr_function
def _word_layout(bits, BN):
    """`[BN channels, b, j]`: element `b * words + j` of 8 neighbours, in the thread whose operand it is."""
    words = 2 * bits
    columns = [[0, 0, j] if j < words else [0, j // words, 0] for j in (2, 4)]
    return gl.DistributedLinearLayout(
        reg_bases=[[0, 0, 1], [8, 0, 0]],
        lane_bases=[*columns, [1, 0, 0], [2, 0, 0], [4, 0, 0]],
        warp_bases=[[n, 0, 0] for n in (16, 32, 64)[: (BN // 32).bit_length()]],
        block_bases=[],
        shape=[BN, 4 // bits, words],
    )


@gluon_jit
def _join(parts, m: gl.constexpr, step: gl.constexpr):
    """Parts m, m + step, m + 2 * step, ... of 8 along new axes of length 2, slowest bit first."""
    if step == 8:  # noqa: SIM108 - only one branch is compiled
        b_l = parts[m]
    else:
        b_l = gl.join(_join(parts, m, 2 * step), _join(parts, m + step, 2 * step))
    return b_l


@gluon_jit
def _merged(b_c, b_w, b_step, ASM: gl.constexpr, FMA: gl.constexpr):
    """`W + D̂` `[BN, 64]` of one block of codes `[BN, b, j]` int32, each word shifted to its thread's first code."""
    parts = gl.inline_asm_elementwise(
        ASM, "=r,=r,=r,=r,=r,=r,=r,=r,r,r", [b_c], dtype=(b_w.dtype,) * 8, is_pure=True, pack=2
    )
    b_l = gl.reshape(gl.permute(_join(parts, 0, 1), (0, 3, 4, 5, 1, 2)), b_w.shape)
    b_l = gl.convert_layout(b_l, b_w.type.layout)
    return gl.inline_asm_elementwise(FMA, "=r,r,r,r", [b_l, b_step, b_w], dtype=b_w.dtype, is_pure=True, pack=2)


@gluon_jit
def _tile_of(i, num_m, num_n, PARTS: gl.constexpr, GROUP: gl.constexpr):
    """Tile of rows, tile of channels and part of K of a piece of work."""
    part = i % PARTS
    i = i // PARTS
    first = i // (GROUP * num_m) * GROUP
    size = gl.minimum(num_n - first, GROUP)
    return i % (GROUP * num_m) // size, first + i % (GROUP * num_m) % size, part


@gluon_jit
def _fetch(x_tiles, w_tiles, b_x, b_w, full, empty, work, num_m, num_n, depth,
           BM: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, PARTS: gl.constexpr,
           GROUP: gl.constexpr):  # fmt: skip
    it = 0
    for i in range(gl.program_id(0), work, gl.num_programs(0)):
        i_m, i_n, part = _tile_of(i, num_m, num_n, PARTS, GROUP)
        # the engine gives zeros for what lies beyond K
        for k in range(part * depth, (part + 1) * depth):
            stage = it % STAGES
            mbarrier.wait(empty.index(stage), (it // STAGES & 1) ^ 1)
            bar = full.index(stage)
            mbarrier.expect(bar, (BM + BN) * 64 * 2)
            load_tile(w_tiles, [i_n * BN, k * 64], bar, b_w.index(stage))
            load_tile(x_tiles, [i_m * BM, k * 64], bar, b_x.index(stage))
            it += 1


@gluon_jit
def _gather(x, index, b_s, full, empty, work, num_m, num_n, stride_xm, M, GN, S: gl.constexpr, BM: gl.constexpr,
            BN: gl.constexpr, PARTS: gl.constexpr, GROUP: gl.constexpr):  # fmt: skip
    ROWS: gl.constexpr = b_s.shape[1]
    L_S: gl.constexpr = gl.BlockedLayout([1, 8], [16, 2], [2, 1], [1, 0])
    o_m = gl.arange(0, ROWS, gl.SliceLayout(1, L_S))
    o_s = gl.arange(0, 16, gl.SliceLayout(0, L_S))
    it = 0
    if S > 0:
        for i in range(gl.program_id(0), work, gl.num_programs(0)):
            i_m, i_n, _ = _tile_of(i, num_m, num_n, PARTS, GROUP)
            b_index = gl.load(index + i_n * BN // GN * S + o_s, mask=o_s < S, other=0)
            mbarrier.wait(empty, (it & 1) ^ 1)
            # a few rows at a time: these warps were left few registers
            for rows in range(BM // ROWS):
                m = i_m * BM + rows * ROWS + o_m
                m_s = (m < M)[:, None] & (o_s < S)[None, :]
                b_x = gl.load(x + m.to(gl.int64)[:, None] * stride_xm + b_index[None, :], mask=m_s, other=0.0)
                b_s.index(rows).store(b_x)
            hopper.fence_async_shared()
            mbarrier.arrive(full)
            it += 1


@gluon_jit
def _view(b_s, BM: gl.constexpr):
    """What `_gather` wrote, as `[BM, 16]`."""
    if RENAMED:
        b_v = b_s.reinterpret(b_s.dtype, [BM, 16], b_s.layout)
    else:
        b_v = b_s._reinterpret(b_s.dtype, [BM, 16], b_s.layout)
    return b_v


@gluon_jit
def _first(codes, steps, values, i, work, num_m, num_n, N, KW, depth, dtype: gl.constexpr, L_A: gl.constexpr,
           S: gl.constexpr, BITS: gl.constexpr, BN: gl.constexpr, PARTS: gl.constexpr,
           GROUP: gl.constexpr):  # fmt: skip
    """Half the steps and the salient values of a tile's channels, and the first two blocks of its codes."""
    L_C: gl.constexpr = _word_layout(BITS, BN)
    o_n = gl.arange(0, BN, gl.SliceLayout(1, gl.SliceLayout(1, L_C)))
    o_j = gl.arange(0, 2 * BITS, gl.SliceLayout(0, gl.SliceLayout(1, L_C)))
    o_a = gl.arange(0, BN, gl.SliceLayout(1, L_A))
    o_s = gl.arange(0, 16, gl.SliceLayout(0, L_A))
    _, i_n, part = _tile_of(gl.minimum(i, work - 1), num_m, num_n, PARTS, GROUP)
    # channels beyond N are read again and not stored
    i_c = codes + gl.minimum(i_n * BN + o_n, N - 1).to(gl.int64)[:, None] * KW + o_j[None, :]
    b_n = gl.minimum(i_n * BN + o_a, N - 1)
    b_step = (gl.load(steps + b_n) * 0.5).to(dtype)
    # one part of K adds the salient channels
    m_s = (o_s < S)[None, :] & (part == 0)
    b_v = gl.load(values + b_n.to(gl.int64)[:, None] * S + o_s[None, :], mask=m_s, other=0.0).to(dtype)
    k = part * depth
    last = KW // (2 * BITS) - 1
    b_c0 = gl.load(i_c + gl.minimum(k, last) * 2 * BITS)
    b_c1 = gl.load(i_c + gl.minimum(k + 1, last) * 2 * BITS)
    return b_step, b_v, i_c, b_c0, b_c1


@gluon_jit
def _store(y_tiles, b_y, b_acc, m, n):
    """Write `b_acc` `[BN, rows]` to y by a buffer of fewer rows, one after the other."""
    if b_acc.shape[1] > b_y.shape[0]:
        b_low, b_high = gl.split(gl.permute(gl.reshape(b_acc, (b_acc.shape[0], 2, b_acc.shape[1] // 2)), (0, 2, 1)))
        _store(y_tiles, b_y, b_low, m, n)
        _store(y_tiles, b_y, b_high, m + b_acc.shape[1] // 2, n)
    else:
        tma.store_wait(0)
        b_y.permute((1, 0)).store(b_acc)
        hopper.fence_async_shared()
        store_tile(y_tiles, [m, n], b_y)


@gluon_jit
def _multiply(y_tiles, sums, codes, steps, values, b_x, b_w, b_y, b_s, full, empty, s_full, s_empty, work, num_m,
              num_n, M, N, KW, depth, S: gl.constexpr, BITS: gl.constexpr, BM: gl.constexpr, BN: gl.constexpr,
              STAGES: gl.constexpr, PARTS: gl.constexpr, GROUP: gl.constexpr, ASM: gl.constexpr,
              FMA: gl.constexpr):  # fmt: skip
    dtype: gl.constexpr = b_w.dtype
    WORDS: gl.constexpr = 2 * BITS
    L_ACC: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[BN // 16, 1], instr_shape=[16, BM, 16]
    )
    L_A: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=L_ACC, k_width=2)
    # a thread's codes are 4 bits apart once its own are shifted to the front
    shift = BITS * gl.arange(0, 4 // BITS, gl.SliceLayout(0, gl.SliceLayout(2, _word_layout(BITS, BN))))
    shift = gl.expand_dims(gl.expand_dims(shift, 0), 2)
    last = KW // WORDS - 1
    it = 0
    b_step, b_v, i_c, b_c0, b_c1 = _first(codes, steps, values, gl.program_id(0), work, num_m, num_n, N, KW, depth,
                                          dtype, L_A, S, BITS, BN, PARTS, GROUP)  # fmt: skip
    for i in range(gl.program_id(0), work, gl.num_programs(0)):
        i_m, i_n, part = _tile_of(i, num_m, num_n, PARTS, GROUP)
        b_acc = gl.zeros([BN, BM], gl.float32, L_ACC)
        # two blocks at a time, because a product still reads the registers of its operand while the next are formed
        for k in range(part * depth, (part + 1) * depth, 2):
            b_even = gl.expand_dims(b_c0, 1) >> shift
            b_odd = gl.expand_dims(b_c1, 1) >> shift
            # the codes of the next two blocks arrive while these two are multiplied
            b_c0 = gl.load(i_c + gl.minimum(k + 2, last) * WORDS)
            b_c1 = gl.load(i_c + gl.minimum(k + 3, last) * WORDS)
            stage = it % STAGES
            mbarrier.wait(full.index(stage), it // STAGES & 1)
            b_a0 = _merged(b_even, b_w.index(stage).load(L_A), b_step[:, None], ASM, FMA)
            b_acc = hopper.warpgroup_mma(b_a0, b_x.index(stage).permute((1, 0)), b_acc, is_async=True)
            # the product before this one is done: its tiles may be overwritten
            b_acc = hopper.warpgroup_mma_wait(1, deps=[b_acc])
            mbarrier.arrive(empty.index((it + STAGES - 1) % STAGES), pred=k > part * depth)
            it += 1
            stage = it % STAGES
            mbarrier.wait(full.index(stage), it // STAGES & 1)
            b_a1 = _merged(b_odd, b_w.index(stage).load(L_A), b_step[:, None], ASM, FMA)
            b_acc = hopper.warpgroup_mma(b_a1, b_x.index(stage).permute((1, 0)), b_acc, is_async=True)
            b_acc, b_a0 = hopper.warpgroup_mma_wait(1, deps=[b_acc, b_a0])
            mbarrier.arrive(empty.index((it + STAGES - 1) % STAGES))
            it += 1
        if S > 0:
            # the salient channels are 16 more columns of K
            mbarrier.wait(s_full, (i - gl.program_id(0)) // gl.num_programs(0) & 1)
            b_acc = hopper.warpgroup_mma(b_v, _view(b_s, BM).permute((1, 0)), b_acc, is_async=True)
        b_step, b_v, i_c, b_c0, b_c1 = _first(codes, steps, values, i + gl.num_programs(0), work, num_m, num_n, N,
                                              KW, depth, dtype, L_A, S, BITS, BN, PARTS, GROUP)  # fmt: skip
        b_acc = hopper.warpgroup_mma_wait(0, deps=[b_acc])
        mbarrier.arrive(empty.index((it + STAGES - 1) % STAGES))
        mbarrier.arrive(s_empty)
        if PARTS == 1:
            _store(y_tiles, b_y, b_acc.to(dtype), i_m * BM, i_n * BN)
        else:
            m = i_m * BM + gl.arange(0, BM, gl.SliceLayout(0, L_ACC))
            n = i_n * BN + gl.arange(0, BN, gl.SliceLayout(1, L_ACC))
            i_y = sums + (part * M + m).to(gl.int64)[None, :] * N + n[:, None]
            gl.store(i_y, b_acc, mask=(m < M)[None, :] & (n < N)[:, None])
    if PARTS == 1:
        tma.store_wait(0)


@gluon_jit
def _warpgroup_matmul_kernel(
    y_tiles,  # descriptor of y [M, N] in tiles of BN channels and a part of BM rows
    x_tiles,  # descriptor of x [M, K] in tiles [BM, 64]
    w_tiles,  # descriptor of weight [N, K] in tiles [BN, 64]
    sums,  # [PARTS, M, N] float32
    x,  # [M, K]
    codes,  # [E, N, KW] int32
    steps,  # [E, N] float32
    index,  # [E, N // GN, S] int32
    values,  # [E, N, S] float16
    slot,  # int32
    stride_xm,
    stride_ce,
    stride_se,
    stride_ie,
    stride_ve,
    M,
    N,
    KW,
    GN,
    S: gl.constexpr,
    BITS: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    STAGES: gl.constexpr,
    PARTS: gl.constexpr,
    GROUP: gl.constexpr,
    ASM: gl.constexpr,
    FMA: gl.constexpr,
):
    dtype: gl.constexpr = w_tiles.dtype
    i_e = gl.load(slot).to(gl.int64)
    codes += i_e * stride_ce
    steps += i_e * stride_se
    index += i_e * stride_ie
    values += i_e * stride_ve
    num_m = (M + BM - 1) // BM
    num_n = (N + BN - 1) // BN
    work = num_m * num_n * PARTS
    # blocks of one part of K, an even number
    depth = (KW // (2 * BITS) + 2 * PARTS - 1) // (2 * PARTS) * 2
    b_x = gl.allocate_shared_memory(dtype, [STAGES, BM, 64], x_tiles.layout)
    b_w = gl.allocate_shared_memory(dtype, [STAGES, BN, 64], w_tiles.layout)
    b_y = gl.allocate_shared_memory(dtype, y_tiles.block_shape, y_tiles.layout)
    ROWS: gl.constexpr = 32 if BM > 32 else BM
    L_S: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=32, element_bitwidth=16, rank=2)
    b_s = gl.allocate_shared_memory(dtype, [BM // ROWS, ROWS, 16], L_S)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    s_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    s_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=1)
    mbarrier.init(s_full, count=1)
    mbarrier.init(s_empty, count=1)
    hopper.fence_async_shared()
    gl.warp_specialize(
        [
            (_multiply, (y_tiles, sums, codes, steps, values, b_x, b_w, b_y, b_s, full, empty, s_full, s_empty, work,
                         num_m, num_n, M, N, KW, depth, S, BITS, BM, BN, STAGES, PARTS, GROUP, ASM, FMA)),
            (_fetch, (x_tiles, w_tiles, b_x, b_w, full, empty, work, num_m, num_n, depth,
                      BM, BN, STAGES, PARTS, GROUP)),
            (_gather, (x, index, b_s, s_full, s_empty, work, num_m, num_n, stride_xm, M, GN, S, BM, BN, PARTS, GROUP)),
        ],
        [1, 2],
        [40, 40],
    )  # fmt: skip


@jit
def _sum_kernel(
    y,  # [M, N]
    sums,  # [PARTS, M, N] float32
    stride_ym,
    M,
    N,
    PARTS: tl.constexpr,
    BN: tl.constexpr,
):
    i_m = tl.program_id(0).to(tl.int64)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    m_n = o_n < N
    b_y = tl.zeros([BN], dtype=tl.float32)
    for part in tl.static_range(PARTS):
        b_y += tl.load(sums + (part * M + i_m) * N + o_n, mask=m_n, other=0.0)
    tl.store(y + i_m * stride_ym + o_n, b_y.to(y.dtype.element_ty), mask=m_n)


def warpgroup_matmul(
    y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    arena: DeltaArena,
    slot: int | torch.Tensor,
    *,
    config: FusedMatmulConfig,
) -> torch.Tensor:
    """`y` `[M, N]` itself, with `x @ (weight + D_hat[slot]).T` written to it; `covers` says for which arguments.

    Same contract as `reference.fused_matmul_ref`.

    Args:
        y: modified.
        x: activations `[M, K]`.
        weight: the base, `[N, K]`.
        slot: the expert, from 0, or where the device finds it.
        config: tile sizes.
    """
    M, N, S = x.shape[0], arena.N, arena.salient
    BM, BN, parts = config.BM, config.BN, config.parts
    sums = torch.empty(parts if parts > 1 else 0, M, N, dtype=torch.float32, device=x.device)
    asm, fma = warpgroup_asm(arena.bits, x.dtype)
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    work = -(-M // BM) * -(-N // BN) * parts
    _warpgroup_matmul_kernel[(min(work, processors(x.device)),)](
        TensorDescriptor.from_tensor(y, [min(BM, 64), BN], layout),
        TensorDescriptor.from_tensor(x, [BM, 64], layout),
        TensorDescriptor.from_tensor(weight, [BN, 64], layout),
        sums, x, arena.codes, arena.steps, arena.salient_index, arena.salient_values, slot_tensor(slot, x.device),
        x.stride(0), arena.codes.stride(0), arena.steps.stride(0), arena.salient_index.stride(0),
        arena.salient_values.stride(0), M, N, arena.codes.shape[2], arena.group_rows,
        S=S, BITS=arena.bits, BM=BM, BN=BN, STAGES=config.stages, PARTS=parts, GROUP=config.GROUP, ASM=asm, FMA=fma,
        num_warps=BN // 16,
    )  # fmt: skip
    if parts > 1:
        _sum_kernel[(M, triton.cdiv(N, 1024))](y, sums, y.stride(0), M, N, PARTS=parts, BN=1024, num_warps=4)
    return y


def covers(x: torch.Tensor, weight: torch.Tensor, arena: DeltaArena) -> bool:
    """Whether `warpgroup_matmul` computes this product: half precision, up to 4 bits, on a Hopper GPU."""
    # the tensor memory engine wants what it moves to begin at multiples of 16 bytes
    begins = (x.data_ptr(), weight.data_ptr(), 2 * x.stride(0), 2 * weight.stride(0), 2 * arena.N)
    return (
        available(x.device)
        and x.dtype in (torch.float16, torch.bfloat16)
        and arena.bits <= 4
        and arena.salient <= _SALIENT
        and all(offset % 16 == 0 for offset in begins)
    )
