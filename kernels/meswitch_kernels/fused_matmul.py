"""`y = x · (W + D̂_e)ᵀ` for many rows of one expert: prefill.

`W + D̂` is formed tile by tile in registers: one matrix product instead of two. Codes become floating-point levels by
placing them into a mantissa. On Hopper warpgroup_matmul.py does this; elsewhere the kernel below, or for very many rows
merge.py and the vendor's product: tuning decides. docs/kernels/fused_matmul.md has the derivation and the floor.
"""

import torch

from meswitch_kernels.arena import DeltaArena, slot_tensor
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import TensorDescriptor, check_available, device_name, interpreting, jit, tl, triton
from meswitch_kernels.levels import level_asm
from meswitch_kernels.merge import merge_weight
from meswitch_kernels.sparse_arena import SparseArena
from meswitch_kernels.tiling import FusedMatmulConfig
from meswitch_kernels.tuned import fused_config
from meswitch_kernels.warpgroup_matmul import covers, warpgroup_matmul

__all__ = ["fused_matmul"]


@jit
def _levels_twice(b_c, i: tl.constexpr, b_w, BITS: tl.constexpr, ASM: tl.constexpr):
    """Twice the levels of code i of every int16, typed like `b_w`; at 8 bits, the levels."""
    if ASM is not None:
        b_l = tl.inline_asm_elementwise(ASM[i], "=r,r", [b_c], dtype=b_w.dtype, is_pure=True, pack=2)
    elif BITS == 8:
        b_l = (((b_c >> (8 * i)) & 255) - 128).to(b_w.dtype)
    else:
        b_l = (2 * ((b_c >> (BITS * i)) & ((1 << BITS) - 1)) - ((1 << BITS) - 1)).to(b_w.dtype)
    return b_l


@jit
def _join(b_c, i: tl.constexpr, step: tl.constexpr, b_w, BITS: tl.constexpr, ASM: tl.constexpr):
    """Levels of the codes i, i + step, i + 2 * step, ... along new axes of length 2, slowest bit last."""
    if step * BITS == 16:
        b_l = _levels_twice(b_c, i, b_w, BITS, ASM)
    else:
        b_l = tl.join(_join(b_c, i, 2 * step, b_w, BITS, ASM), _join(b_c, i + step, 2 * step, b_w, BITS, ASM))
    return b_l


@jit
def _fused_matmul_kernel(
    y,  # [M, N]
    x_tiles,  # descriptor of x [M, K] in tiles [BM, BK]
    w_tiles,  # descriptor of weight [N, K] in tiles [BN, BK]
    x,  # [M, K]
    codes,  # [E, N, KH] int16
    steps,  # [E, N] float32
    index,  # [E, N // GN, S] int32
    values,  # [E, N, S] float16
    slot,  # int32
    stride_ym,
    stride_xm,
    stride_ce,
    stride_se,
    stride_ie,
    stride_ve,
    M,
    N,
    K,
    KH,
    GN,
    S: tl.constexpr,
    SP: tl.constexpr,
    BITS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    ASM: tl.constexpr,
):
    # a block of 64 codes: [j: 2 * BITS words, half: 2] int16, each of 16 / BITS codes
    WORDS: tl.constexpr = 2 * BITS
    CODES: tl.constexpr = 16 // BITS
    BKH: tl.constexpr = BK * BITS // 16
    i_e = tl.load(slot).to(tl.int64)
    codes += i_e * stride_ce
    steps += i_e * stride_se
    index += i_e * stride_ie
    values += i_e * stride_ve
    pid = tl.program_id(0)
    num_m = tl.cdiv(M, BM)
    num_n = tl.cdiv(N, BN)
    first = pid // (GROUP * num_m) * GROUP
    size = tl.minimum(num_n - first, GROUP)
    i_n = first + pid % (GROUP * num_m) % size
    i_m = pid % (GROUP * num_m) // size
    o_m = i_m.to(tl.int64) * BM + tl.arange(0, BM)
    o_n = i_n.to(tl.int64) * BN + tl.arange(0, BN)
    o_h = tl.arange(0, BKH)
    b_n = tl.minimum(o_n, N - 1)
    i_c = codes + b_n[:, None] * KH + o_h[None, :]
    b_step = tl.load(steps + b_n)
    # the levels come doubled
    b_step = (b_step if BITS == 8 else b_step * 0.5).to(x.dtype.element_ty)
    b_acc = tl.zeros([BM, BN], dtype=tl.float32)
    for k in range(0, K, BK):
        # a copy engine writes tiles into shared memory so that no two rows of a column share a bank
        b_x = x_tiles.load([i_m * BM, k])
        b_w = w_tiles.load([i_n * BN, k])
        b_c = tl.load(i_c) if EVEN else tl.load(i_c, mask=(k * BITS // 16 + o_h < KH)[None, :], other=0)
        # [BN, blocks, words, halves] -> [BN, blocks, halves, words, codes] -> [BN, BK]
        b_c = tl.permute(tl.reshape(b_c, (BN, BK // 64, WORDS, 2)), (0, 1, 3, 2))
        b_l = tl.reshape(_join(b_c, 0, 1, b_w, BITS, ASM), (BN, BK // 64, 2, WORDS, CODES))
        b_l = tl.reshape(tl.permute(b_l, (0, 1, 2, 4, 3)), (BN, BK))
        b_acc = tl.dot(b_x, (b_w + b_l * b_step[:, None]).T, acc=b_acc, input_precision=PRECISION)
        i_c += BKH
    if S > 0:
        o_s = tl.arange(0, SP)
        b_index = tl.load(index + i_n.to(tl.int64) * BN // GN * S + o_s, mask=o_s < S, other=0)
        b_v = tl.load(values + b_n[:, None] * S + o_s[None, :], mask=(o_s < S)[None, :], other=0.0)
        m_x = (o_m < M)[:, None] & (o_s < S)[None, :]
        b_x = tl.load(x + o_m[:, None] * stride_xm + b_index[None, :], mask=m_x, other=0.0)
        b_acc = tl.dot(b_x, b_v.to(b_x.dtype).T, acc=b_acc, input_precision=PRECISION)
    m_y = (o_m < M)[:, None] & (o_n < N)[None, :]
    tl.store(y + o_m[:, None] * stride_ym + o_n[None, :], b_acc.to(y.dtype.element_ty), mask=m_y)


def fused_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    arena: DeltaArena | SparseArena,
    slot: int | torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    config: FusedMatmulConfig | None = None,
    inline_asm: bool | None = None,
) -> torch.Tensor:
    """`x @ (weight + D_hat[slot]).T`, `[M, N]` like `x`. Same contract as `reference.fused_matmul_ref`.

    `weight + D_hat` is rounded to `weight`'s dtype, as in a merged checkpoint.

    Args:
        x: activations `[M, K]`.
        weight: the base, `[N, K]`, same dtype as `x`.
        slot: the expert of all rows; -1 for the base alone, which is left to the vendor's library. Or int32 on the
            device, whose first element is read when the kernel runs and must name an expert: a captured graph serves
            every slot then.
        out: where to write; by default a new tensor.
        config: method and tile sizes; by default the tuned ones of this GPU.
        inline_asm: unpack by PTX; by default where there is some for this dtype and width. Method "registers" only.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(x)
    config = config or _config(x, weight, arena, out)
    _check(x, weight, arena, slot, config)
    M, N = x.shape[0], arena.N
    is_base = isinstance(slot, int) and slot < 0
    if is_base and out is None:
        return torch.nn.functional.linear(x, weight)
    y = torch.empty(M, N, dtype=x.dtype, device=x.device) if out is None else out
    _check_out(y, x, N, config)
    if is_base:
        torch.mm(x, weight.T, out=y)
    elif config.method == "merged" or isinstance(arena, SparseArena):
        torch.mm(x, merge_weight(weight, arena, slot).T, out=y)
    elif config.method == "warpgroups" and M:
        warpgroup_matmul(y, x, weight, arena, slot, config=config)
    elif M:
        _multiply_registers(y, x, weight, arena, slot, config, not interpreting() if inline_asm is None else inline_asm)
    return y


def _config(
    x: torch.Tensor, weight: torch.Tensor, arena: DeltaArena | SparseArena, out: torch.Tensor | None
) -> FusedMatmulConfig:
    """What was measured nearest; of signed positions `W + D_hat` is written out, for as long as no kernel forms it."""
    if isinstance(arena, SparseArena):
        return FusedMatmulConfig(method="merged")
    return fused_config(
        device_name(x.device), rows=max(1, x.shape[0]), N=arena.N, K=arena.K, group_rows=arena.group_rows,
        warpgroups=covers(x, weight, arena) and (out is None or _begins_well(out)),
    )  # fmt: skip


def _multiply_registers(
    y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    arena: DeltaArena,
    slot: int | torch.Tensor,
    config: FusedMatmulConfig,
    inline_asm: bool,
) -> None:
    (M, K), N, S = x.shape, arena.N, arena.salient
    codes = arena.codes.view(torch.int16)
    _fused_matmul_kernel[(triton.cdiv(M, config.BM) * triton.cdiv(N, config.BN),)](
        y,
        TensorDescriptor.from_tensor(x, [config.BM, config.BK]),
        TensorDescriptor.from_tensor(weight, [config.BN, config.BK]), x,
        codes, arena.steps, arena.salient_index, arena.salient_values, slot_tensor(slot, x.device),
        y.stride(0), x.stride(0), codes.stride(0), arena.steps.stride(0), arena.salient_index.stride(0),
        arena.salient_values.stride(0), M, N, K, arena.row_bytes // 2,
        arena.group_rows, S=S, SP=max(16, triton.next_power_of_2(S)), BITS=arena.bits, BM=config.BM, BN=config.BN,
        BK=config.BK, GROUP=config.GROUP, EVEN=K % config.BK == 0,
        PRECISION="ieee" if x.dtype == torch.float32 else None,
        ASM=level_asm(arena.bits, x.dtype) if inline_asm else None,
        enable_fp_fusion=True, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    arena: DeltaArena | SparseArena,
    slot: int | torch.Tensor,
    config: FusedMatmulConfig,
) -> None:
    N, K = arena.N, arena.K
    if tuple(weight.shape) != (N, K) or weight.stride(1) != 1:
        raise UnsupportedShapeError(f"weight must be [{N}, {K}] with rows of neighbours, got {list(weight.shape)}")
    if x.ndim != 2 or x.shape[1] != K or x.stride(1) != 1:
        raise UnsupportedShapeError(f"x must be [M, {K}] with rows of neighbours, got {list(x.shape)}")
    if x.dtype != weight.dtype or x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise UnsupportedShapeError(f"x and weight must share one floating dtype, got {x.dtype} and {weight.dtype}")
    if isinstance(slot, int) and not -1 <= slot < arena.slots:
        raise UnsupportedShapeError(f"slot must be from -1 to {arena.slots - 1}, got {slot}")
    if config.method == "merged":
        return
    if isinstance(arena, SparseArena):
        raise UnsupportedShapeError(f"of signed positions the method must be merged, got {config.method}")
    # the copy engine that moves tiles wants rows to begin at multiples of 16 bytes
    if x.stride(0) * x.element_size() % 16 or weight.stride(0) * weight.element_size() % 16:
        raise UnsupportedShapeError(
            f"rows must begin at multiples of 16 bytes, got strides of {x.stride(0)} and {weight.stride(0)} elements"
        )
    is_base = isinstance(slot, int) and slot < 0
    if config.method == "warpgroups" and not is_base and not covers(x, weight, arena):
        raise UnsupportedShapeError(
            "warpgroups multiply float16 or bfloat16 by codes of up to 4 bits with up to 16 salient channels, N a "
            f"multiple of 8, on a Hopper GPU, got {x.dtype}, {arena.bits} bits, {arena.salient} channels, N = {arena.N}"
        )
    if config.BK % 64:
        raise UnsupportedShapeError(f"BK must be a multiple of 64, got {config.BK}")
    if arena.group_rows % config.BN and arena.group_rows != N:
        raise UnsupportedShapeError(f"a salient group must be whole tiles of {config.BN} rows, got {arena.group_rows}")


def _check_out(y: torch.Tensor, x: torch.Tensor, N: int, config: FusedMatmulConfig) -> None:
    M = x.shape[0]
    if tuple(y.shape) != (M, N) or y.dtype != x.dtype or y.stride(1) != 1:
        raise UnsupportedShapeError(f"out must be [{M}, {N}] {x.dtype} with rows of neighbours, got {list(y.shape)}")
    if config.method == "warpgroups" and not _begins_well(y):
        raise UnsupportedShapeError(f"rows of out must begin at multiples of 16 bytes, got a stride of {y.stride(0)}")


def _begins_well(out: torch.Tensor) -> bool:
    """Whether the copy engine can write rows of `out`."""
    return out.data_ptr() % 16 == 0 and out.stride(0) * out.element_size() % 16 == 0
