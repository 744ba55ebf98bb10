"""Keys and values of the requests that run on the device: one row a request, each at its own position."""

import torch

from meswitch.cuda.decoder_shape import DecoderShape

__all__ = ["KvCache", "kv_bytes"]


class KvCache:
    """Room for `rows` requests of up to `tokens` tokens each, allocated once.

    Rows are never moved: a step names the row of each request. What lies beyond a request's length is never read.

    Attributes:
        keys, values: `[layers, rows, kv_heads, tokens, head_dim]`.
    """

    def __init__(
        self, shape: DecoderShape, *, rows: int, tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (shape.layers, rows, shape.kv_heads, tokens, shape.head_dim)
        self.keys = torch.empty(size, dtype=dtype, device=device)
        self.values = torch.empty(size, dtype=dtype, device=device)

    @property
    def rows(self) -> int:
        """Requests that can run together."""
        return self.keys.shape[1]

    @property
    def tokens(self) -> int:
        """Tokens of one request."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return 2 * self.keys.numel() * self.keys.element_size()


def kv_bytes(shape: DecoderShape, *, rows: int, tokens: int, dtype: torch.dtype) -> int:
    """`KvCache.nbytes` of such a cache, known without making it."""
    return 2 * shape.layers * rows * tokens * shape.kv_rows * dtype.itemsize
