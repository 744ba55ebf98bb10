"""What every kernel of this package computes, in FP32 and without haste.

M is the rows of activations, N the output and K the input dimension, E the expert slots, S the salient channels;
B the sequences of a step, H and G the heads of queries and of keys, D the width of a head, V the vocabulary.
"""

import torch

from meswitch_kernels.arena import DeltaArena, level_offset
from meswitch_kernels.packing import unpack
from meswitch_kernels.rows import RowVectors
from meswitch_kernels.sparse_arena import SparseArena
from meswitch_kernels.sparse_packing import expand_groups, unpack_groups

__all__ = [
    "choose_tokens_ref",
    "decode_attention_ref",
    "delta_matmul_ref",
    "delta_rows_ref",
    "delta_weight_ref",
    "fused_matmul_ref",
    "gated_activation_ref",
    "rms_norm_ref",
    "rotary_and_store_ref",
]


def delta_weight_ref(arena: DeltaArena | SparseArena, slot: int) -> torch.Tensor:
    """`D_hat` of one slot, `[N, K]` float32."""
    weight = _levels(arena, slot) * arena.steps[slot][:, None]
    groups = arena.N // arena.group_rows
    for index, part, values in zip(
        arena.salient_index[slot].view(groups, arena.salient).long(),
        weight.chunk(groups),
        arena.salient_values[slot].float().chunk(groups),
        strict=True,
    ):
        part.index_add_(1, index, values)
    return weight


def delta_matmul_ref(
    y: torch.Tensor, x: torch.Tensor, arena: DeltaArena | SparseArena, slot_of_row: torch.Tensor
) -> torch.Tensor:
    """`y[m] + x[m] @ D_hat[slot_of_row[m]].T`, `[M, N]` float32; `y[m]` where the slot is -1."""
    out = y.float().clone()
    for m, slot in enumerate(slot_of_row.tolist()):
        if slot >= 0:
            out[m] += x[m].float() @ delta_weight_ref(arena, slot).T
    return out


def fused_matmul_ref(x: torch.Tensor, weight: torch.Tensor, arena: DeltaArena | SparseArena, slot: int) -> torch.Tensor:
    """`x @ (weight + D_hat[slot]).T`, `[M, N]` float32; the base alone if `slot` is -1."""
    if slot < 0:
        return x.float() @ weight.float().T
    return x.float() @ (weight.float() + delta_weight_ref(arena, slot)).T


def delta_rows_ref(
    y: torch.Tensor, row_ids: torch.Tensor, arena: DeltaArena, slot_of_row: torch.Tensor
) -> torch.Tensor:
    """`y[m] + D_hat[slot_of_row[m]][row_ids[m]]`, `[M, K]` float32: the delta of an embedding table."""
    out = y.float().clone()
    for m, (slot, row) in enumerate(zip(slot_of_row.tolist(), row_ids.tolist(), strict=True)):
        if slot >= 0:
            out[m] += delta_weight_ref(arena, slot)[row]
    return out


def rms_norm_ref(x: torch.Tensor, weight: RowVectors, slots: torch.Tensor | None = None, *, eps: float) -> torch.Tensor:
    """`x / sqrt(mean(x²) + eps)` of each row times its slot's weight, `[M, K]` float32."""
    return _normalised(x.float(), eps) * _vectors(weight, slots, x.shape[0])


def gated_activation_ref(gate_up: torch.Tensor, *, kind: str) -> torch.Tensor:
    """`act(gate) * up`, `[M, F]` float32."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    silu = kind == "silu"
    act = torch.nn.functional.silu(gate) if silu else torch.nn.functional.gelu(gate, approximate="tanh")
    return act * up


def rotary_and_store_ref(
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
) -> torch.Tensor:
    """Rotated queries `[M, H, D]` float32; keys and values of each row go into the cache, rounded to its dtype."""
    M, D = qkv.shape[0], keys.shape[-1]
    x = qkv.float() + (_vectors(bias, slots, M) if bias else 0.0)
    x = x.view(M, -1, D)
    q, k, v = x[:, :heads], x[:, heads : heads + kv_heads], x[:, heads + kv_heads :]
    if q_norm and k_norm:
        q = _normalised(q, eps) * _vectors(q_norm, slots, M)[:, None]
        k = _normalised(k, eps) * _vectors(k_norm, slots, M)[:, None]
    place = positions.clamp(0, cos.shape[0] - 1)
    angles = cos[place, None, : D // 2], sin[place, None, : D // 2]
    k = _rotated(k, *angles)
    for m, (row, position) in enumerate(zip(cache_rows.tolist(), positions.tolist(), strict=True)):
        if row >= 0 and 0 <= position < keys.shape[2]:
            keys[row, :, position] = k[m].to(keys.dtype)
            values[row, :, position] = v[m].to(values.dtype)
    return _rotated(q, *angles)


def decode_attention_ref(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    rows: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """`softmax(q K.T * scale) V` over each row's positions, `[B, H * D]` float32; zeros where the length is 0."""
    shared = q.shape[1] // keys.shape[1]
    out = torch.zeros_like(q, dtype=torch.float32)
    for b, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
        if length:
            start = max(0, length - window) if window else 0
            k = keys[row, :, start:length].float().repeat_interleave(shared, dim=0)
            v = values[row, :, start:length].float().repeat_interleave(shared, dim=0)
            scores = (k @ q[b].float()[:, :, None]).squeeze(-1) * scale
            out[b] = (scores.softmax(-1)[:, None] @ v).squeeze(1)
    return out.flatten(1)


def choose_tokens_ref(
    logits: torch.Tensor,
    *,
    vocabulary: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """`argmax(logit + temperature * gumbel)` of each row, `[B]` int64; -1 where the maximum is not finite."""
    tokens = []
    rows = zip(logits, vocabulary.tolist(), temperature.tolist(), seeds.tolist(), positions.tolist(), strict=True)
    for row, size, heat, seed, position in rows:
        scores = row[:size].double().cpu()
        if heat > 0:
            uniform = (_philox(seed, scores.shape[0], position).double() + 0.5) * 2.0**-32
            scores = scores - heat * (-torch.log1p(-uniform)).log()
        # where the maximum is shared, the lowest token
        finite = size > 0 and bool(scores.max().isfinite())
        tokens.append(int((scores == scores.max()).nonzero()[0]) if finite else -1)
    return torch.tensor(tokens, device=logits.device)


def _levels(arena: DeltaArena | SparseArena, slot: int) -> torch.Tensor:
    """The levels of one slot, `[N, K]` float32."""
    if isinstance(arena, DeltaArena):
        return unpack(arena.codes[slot], arena.bits, arena.K).float() - level_offset(arena.bits)
    codes, signs, group, K = arena.codes[slot], arena.signs[slot], arena.group, arena.K
    levels = torch.zeros(arena.N, K, device=codes.device)
    for plane, own in [(codes, signs)] if arena.keep == 1 else zip(codes, signs, strict=True):
        levels += expand_groups(unpack_groups(plane, own, group, K), group, K)
    return levels


def _vectors(vectors: RowVectors, slots: torch.Tensor | None, M: int) -> torch.Tensor:
    """The vector of each row's slot, `[M, K]`."""
    base = vectors.base.expand(M, -1)
    if slots is None or vectors.experts is None:
        return base
    return torch.where(slots[:, None] < 0, base, vectors.experts[slots.clamp(min=0).long()])


def _normalised(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _philox(seed: int, count: int, position: int) -> torch.Tensor:
    """First words of Philox4x32-10 with the key `seed` at the counters `(i, position, position >> 32, 0)`.

    Salmon and others, Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    word = 0xFFFFFFFF
    a = torch.arange(count)
    b, c, d = (torch.full_like(a, value & word) for value in (position, position >> 32, 0))
    key = [seed & word, seed >> 32 & word]
    for _ in range(10):
        # the high half survives the wrap of a signed product, because the mask removes the copies of its sign
        low, high = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (high >> 32 & word) ^ b ^ key[0], high & word, (low >> 32 & word) ^ d ^ key[1], low & word
        key = [key[0] + 0x9E3779B9 & word, key[1] + 0xBB67AE85 & word]
    return a
