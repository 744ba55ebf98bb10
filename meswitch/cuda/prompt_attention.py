"""Attention of a chunk of one prompt over its row of the cache, by PyTorch's kernels."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

__all__ = ["prompt_attention"]

# not cuDNN's, which PyTorch prefers on Hopper: it builds a plan for every pair of lengths at first sight, and all
# answers that are being decoded would wait for it
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def prompt_attention(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """What T queries find among S keys, each among those up to its own position: `[T, heads, head_dim]`.

    Args:
        queries: `[T, heads, head_dim]`, of the last T of S positions.
        keys: `[kv_heads, S, head_dim]`; `heads` is a multiple of `kv_heads`.
        values: of the same shape.
    """
    T, S = queries.shape[0], keys.shape[1]
    mask = causal_lower_right(T, S) if T < S else None
    with sdpa_kernel(_BACKENDS):
        x = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=True,
        )
    return x[0].transpose(0, 1)
