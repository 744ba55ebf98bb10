"""The next token of every row: the largest logit, or a draw from `softmax(logits / temperature)`.

`argmax(logit + temperature · g)` with independent Gumbel numbers `g` is an exact draw, and needs no sum over the
vocabulary (Gumbel 1954; Maddison, Tarlow and Minka 2014). `g` comes from a counter (Philox) keyed by the request's
seed, the position and the token, so that no other row changes what a row draws. A program takes a part of a row, and
a second launch the best of the parts.
"""

import torch

from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import check_available, early_launch, jit, supports_early_launch, tl, triton

__all__ = ["choose_tokens"]

# measured on an H100: docs/kernels/step.md
_BV = 512


@jit
def _gumbel(seed, position, o_v):
    """One number for each token."""
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = (position >> 32).to(tl.uint32)
    b_zero = tl.zeros_like(o_v).to(tl.uint32)
    b_r, _, _, _ = tl.philox(seed, o_v.to(tl.uint32), b_zero + low, b_zero + high, b_zero)
    # in (0, 1), and exact where it is small, which is where the largest numbers come from
    b_u = tl.minimum((b_r.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    # -log(1 - u) without losing what 1 - u rounds away
    b_w = 1.0 - b_u
    b_e = tl.where(b_w == 1.0, b_u, -tl.log(b_w) * (b_u / (1.0 - b_w)))
    return -tl.log(b_e)


@jit
def _best_kernel(
    best,  # [B, parts] float32
    place,  # [B, parts] int32
    logits,  # [B, V]
    vocabulary,  # [B] int32
    temperature,  # [B] float32
    seeds,  # [B] int64
    positions,  # [B] int64
    stride_lb,
    V,
    BV: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i_b = tl.program_id(0).to(tl.int64)
    i_p = tl.program_id(1)
    o_v = i_p * BV + tl.arange(0, BV)
    m_v = o_v < tl.minimum(tl.load(vocabulary + i_b), V)
    b_s = tl.load(logits + i_b * stride_lb + o_v, mask=m_v, other=float("-inf")).to(tl.float32)
    heat = tl.load(temperature + i_b)
    if heat > 0:
        b_s += heat * _gumbel(tl.load(seeds + i_b), tl.load(positions + i_b), o_v)
    # what is not a number is no maximum either, and must not be passed over
    b_s = tl.where(b_s == b_s, b_s, float("inf"))
    top, index = tl.max(b_s, axis=0, return_indices=True)
    i_o = i_b * tl.num_programs(1) + i_p
    tl.store(best + i_o, top)
    tl.store(place + i_o, i_p * BV + index)


@jit
def _choose_kernel(
    tokens,  # [B] int64
    best,  # [B, parts] float32
    place,  # [B, parts] int32
    parts,
    BP: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i_b = tl.program_id(0).to(tl.int64)
    o_p = tl.arange(0, BP)
    b_s = tl.load(best + i_b * parts + o_p, mask=o_p < parts, other=float("-inf"))
    top, index = tl.max(b_s, axis=0, return_indices=True)
    token = tl.load(place + i_b * parts + index).to(tl.int64)
    tl.store(tokens + i_b, tl.where(tl.abs(top) < float("inf"), token, -1))


def choose_tokens(
    logits: torch.Tensor,
    *,
    vocabulary: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Tokens `[B]` int64; -1 where a row has no finite maximum. Same contract as `reference.choose_tokens_ref`.

    Args:
        logits: `[B, V]` float16, bfloat16 or float32.
        vocabulary: tokens of each row's model, `[B]` int32; logits from there on are not looked at.
        temperature: of each row, `[B]` float32; 0 takes the largest logit, the first among equals.
        seeds: of each row's request, `[B]` int64.
        positions: of the token that is chosen, `[B]` int64; a request draws anew at each.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(logits)
    if logits.ndim != 2 or not logits.shape[1] or logits.stride(1) != 1 or not logits.is_floating_point():
        raise UnsupportedShapeError(f"logits must be [B, V] of floats, got {list(logits.shape)} {logits.dtype}")
    B, V = logits.shape
    wanted = (
        ("vocabulary", vocabulary, torch.int32),
        ("temperature", temperature, torch.float32),
        ("seeds", seeds, torch.int64),
        ("positions", positions, torch.int64),
    )
    for name, tensor, dtype in wanted:
        if tensor.shape != (B,) or tensor.dtype != dtype:
            raise UnsupportedShapeError(f"{name} must be [{B}] {dtype}, got {list(tensor.shape)} {tensor.dtype}")
    parts = triton.cdiv(V, _BV)
    best = torch.empty(B, parts, dtype=torch.float32, device=logits.device)
    place = torch.empty(B, parts, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(B, dtype=torch.int64, device=logits.device)
    early = supports_early_launch(logits)
    if B:
        _best_kernel[(B, parts)](
            best, place, logits, vocabulary, temperature, seeds, positions, logits.stride(0), V,
            BV=_BV, EARLY=early, enable_fp_fusion=True, num_warps=4, **early_launch(logits),
        )  # fmt: skip
        _choose_kernel[(B,)](
            tokens, best, place, parts, BP=triton.next_power_of_2(parts), EARLY=early,
            enable_fp_fusion=True, num_warps=1, **early_launch(logits),
        )  # fmt: skip
    return tokens
