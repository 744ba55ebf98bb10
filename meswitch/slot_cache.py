"""Keys and values of the requests that run: one slot a request, each at its own position.

    prefill: one slot, all positions of a prompt      decode: slots 0..B-1, one position each

Slots belong to requests and are never shared, so no request can see keys of another one, or of another expert.
`transformers`' static cache holds one position for the whole batch; this one holds one for each row.
"""

from collections.abc import Sequence

import torch

__all__ = ["SlotCache"]

BLOCK_TOKENS = 32
"""Attention reads so many positions more or fewer; fewer shapes, and no row beyond the longest."""


class SlotCache:
    """The cache object that a `transformers` decoder is given as `past_key_values`."""

    def __init__(
        self, *, layers: int, slots: int, kv_heads: int, head_dim: int, tokens: int, dtype: torch.dtype = torch.float32
    ) -> None:
        # zeros, not garbage: a masked NaN would still be NaN after the product with its zero weight
        shape = (layers, slots, kv_heads, tokens, head_dim)
        self._keys = torch.zeros(shape, dtype=dtype)
        self._values = torch.zeros(shape, dtype=dtype)
        self._tokens = tokens
        self._slots = slice(0, 0)
        self._rows = torch.zeros(0, dtype=torch.long)
        self._positions = torch.zeros(0, dtype=torch.long)
        self._prefill_start = 0
        self._span = 0
        self._columns = torch.arange(tokens)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        return 2 * self._keys.numel() * self._keys.element_size()

    def begin_prefill(self, slot: int, length: int) -> torch.Tensor:
        """The mask `[1, 1, T, T]` of a prompt of `length` T tokens, which the next forward writes into `slot`."""
        self._slots = slice(slot, slot + 1)
        self._positions = self._columns[:0]
        self._span = length
        return torch.ones(1, 1, length, length, dtype=torch.bool).tril_()

    def begin_decode(self, positions: torch.Tensor, longest: int) -> torch.Tensor:
        """The mask `[B, 1, 1, L]` of one token a row, which the next forward writes into slots 0..B-1.

        Args:
            positions: of the new tokens, `[B]` int64.
            longest: their maximum, known on the host.
        """
        rows = positions.shape[0]
        if rows != self._rows.shape[0]:
            self._rows = torch.arange(rows)
        self._slots = slice(0, rows)
        self._positions = positions
        self._span = min(-(-(longest + 1) // BLOCK_TOKENS) * BLOCK_TOKENS, self._tokens)
        return (self._columns[: self._span] <= positions[:, None])[:, None, None, :]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[B, H, L, D]` that attention reads, after writing `keys` and `values` `[B, H, T, D]`."""
        held_keys = self._keys[layer_idx, self._slots, :, : self._span]
        held_values = self._values[layer_idx, self._slots, :, : self._span]
        if self._positions.shape[0]:
            held_keys[self._rows, :, self._positions] = keys[:, :, 0]
            held_values[self._rows, :, self._positions] = values[:, :, 0]
        else:
            held_keys.copy_(keys)
            held_values.copy_(values)
        return held_keys, held_values

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        """Zero: positions are always given explicitly."""
        return 0

    def reorder(self, order: Sequence[int], longest: int) -> None:
        """Move slots so that slot i holds what slot `order[i]` held; slots that nothing moves into are cleared.

        Args:
            order: distinct slots.
            longest: positions that any of them holds.
        """
        moved = [(new, old) for new, old in enumerate(order) if new != old]
        if not moved:
            return
        into, out_of = (torch.tensor(side) for side in zip(*moved, strict=True))
        for held in (self._keys, self._values):
            part = held[:, :, :, :longest]
            part[:, into] = part[:, out_of]
        for slot in {old for _, old in moved} - {new for new, _ in moved}:
            self.clear(slot, longest)

    def clear(self, slot: int, length: int) -> None:
        """Forget the first `length` positions of a slot whose request ended.

        Masked positions still enter the next request's sums with a weight of zero, and zero times NaN is NaN.
        """
        self._keys[:, slot, :, :length] = 0
        self._values[:, slot, :, :length] = 0
