"""What a chunk of a prompt is computed from and into: tensors that stay in place, so that graphs can be replayed."""

from dataclasses import dataclass, fields

import torch

from meswitch.cuda.decoder_shape import DecoderShape

__all__ = ["PromptTensors", "prompt_tensors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTensors:
    """T tokens of one request, padded; a token beyond the chunk has cache row -1.

    Attributes:
        tokens, positions: `[T]` int64.
        cache_rows: where keys and values go, `[T]` int32.
        slots: of the expert, the same in all rows, `[T]` int32; not read where the base computes.
        h: residual stream, `[T, K]`.
        queries: of the layer that attends next, `[T, heads, head_dim]`.
        attended: what attention made of them, `[T, heads * head_dim]`.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    cache_rows: torch.Tensor
    slots: torch.Tensor
    h: torch.Tensor
    queries: torch.Tensor
    attended: torch.Tensor

    def first(self, tokens: int) -> "PromptTensors":
        """Views of the first `tokens` tokens."""
        return PromptTensors(**{field.name: getattr(self, field.name)[:tokens] for field in fields(self)})

    def load(self, tokens: torch.Tensor, *, start: int, cache_row: int, slot: int) -> None:
        """Make these tokens `[T]` of one request, from position `start` on, the first ones, and all others padding."""
        T = tokens.shape[0]
        self.tokens[:T].copy_(tokens)
        self.tokens[T:].zero_()
        torch.arange(start, start + T, out=self.positions[:T])
        # a token beyond the chunk has some position, and no place in the cache
        self.positions[T:].zero_()
        self.cache_rows[:T].fill_(cache_row)
        self.cache_rows[T:].fill_(-1)
        self.slots.fill_(slot)


def prompt_tensors(shape: DecoderShape, *, tokens: int, dtype: torch.dtype, device: torch.device) -> PromptTensors:
    """Tensors for chunks of up to `tokens` tokens."""

    def zeros(*size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(tokens, *size, dtype=dtype, device=device)

    return PromptTensors(
        tokens=zeros(dtype=torch.int64),
        positions=zeros(dtype=torch.int64),
        cache_rows=zeros(dtype=torch.int32),
        slots=zeros(dtype=torch.int32),
        h=zeros(shape.K, dtype=dtype),
        queries=zeros(shape.heads, shape.head_dim, dtype=dtype),
        attended=zeros(shape.q_rows, dtype=dtype),
    )
