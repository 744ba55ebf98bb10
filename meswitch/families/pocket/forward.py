"""The forward pass of a Llama written out, for training and evaluation in few kernels.

It reads the parameters of a `LlamaForCausalLM` and equals that model's own forward pass (a test holds it to that).
B rows, T tokens, H heads, D head size.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KeyValues", "decode_step", "hidden_of", "logits_of"]


@dataclass(slots=True)
class KeyValues:
    """Keys and values of all layers, `[layers, B, H_kv, capacity, D]`; `used` columns are filled."""

    keys: Tensor
    values: Tensor
    used: int = 0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` `[B, H, T, D]` turned by the angles of its positions."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


def angles(model: Any, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `positions` `[B, T]`, each `[B, 1, T, D]`."""
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size
    turns = positions[:, None, :, None].float() * (1.0 / theta**exponents)
    turns = torch.cat((turns, turns), dim=-1)
    return turns.cos().to(dtype), turns.sin().to(dtype)


def attend(
    layer: Any, x: Tensor, cos: Tensor, sin: Tensor, index: int, cache: KeyValues | None, mask: Tensor | None
) -> Tensor:
    """Self-attention of one layer over `x` `[B, T, hidden]`, and over what `cache` holds."""
    size = layer.head_dim
    q, k, v = (
        projection(x).unflatten(-1, (-1, size)).transpose(1, 2)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
    if cache is not None:
        end = cache.used + x.shape[1]
        cache.keys[index, :, :, cache.used : end] = k
        cache.values[index, :, :, cache.used : end] = v
        k, v = cache.keys[index, :, :, :end], cache.values[index, :, :, :end]
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return layer.o_proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def normalise(norm: Any, x: Tensor) -> Tensor:
    """`x` under an RMS norm, in float32."""
    return F.rms_norm(x.float(), (x.shape[-1],), norm.weight, norm.variance_epsilon)


def run(model: Any, ids: Tensor, positions: Tensor, cache: KeyValues | None, mask: Tensor | None) -> Tensor:
    """Hidden states after the last norm, `[B, T, hidden]`."""
    x = F.embedding(ids, model.model.embed_tokens.weight)
    cos, sin = angles(model, positions, torch.float32)
    for index, layer in enumerate(model.model.layers):
        h = normalise(layer.input_layernorm, x)
        x = x + attend(layer.self_attn, h, cos, sin, index, cache, mask)
        h = normalise(layer.post_attention_layernorm, x)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
    return normalise(model.model.norm, x)


def hidden_of(model: Any, ids: Tensor) -> Tensor:
    """Hidden states `[B, T, hidden]` after the last norm, of right-padded `ids` `[B, T]`."""
    return run(model, ids, torch.arange(ids.shape[1], device=ids.device)[None], None, None)


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """Next-token logits `[B, T, vocabulary]` of right-padded `ids` `[B, T]`."""
    return F.linear(hidden_of(model, ids), model.lm_head.weight)


def decode_step(model: Any, ids: Tensor, positions: Tensor, cache: KeyValues, visible: Tensor) -> Tensor:
    """Logits `[B, vocabulary]` after the last of `ids` `[B, T]`, which are appended to `cache`.

    Args:
        model: a `LlamaForCausalLM`.
        ids: the next tokens of every row, `[B, T]`.
        positions: their positions, `[B, T]`.
        cache: grows by T columns.
        visible: which columns of the cache, the new ones included, each new token sees: `[B, 1, T, used + T]` bool.
    """
    hidden = run(model, ids, positions, cache, visible)
    cache.used += ids.shape[1]
    return F.linear(hidden[:, -1], model.lm_head.weight)
