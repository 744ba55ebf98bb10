"""The products with the base that a prompt needs whatever else it computes, by the vendor's library alone."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from meswitch.cuda.graphs import GraphPool
from meswitch.cuda.whole_layout import WholeWeights

__all__ = ["BaseProducts"]


class BaseProducts:
    """Every linear of every layer for all tokens of a prompt, and the head for the last: nothing between them.

    All layers of a real model are far larger than the cache, so that each product reads its weights from memory, as
    it does in a prompt.

    Args:
        base: the weights.
        most_tokens: of one product.
        graphs: records a prompt's products as one graph; without, they are launched one by one.
        seed: of the activations.
    """

    def __init__(self, base: WholeWeights, *, most_tokens: int, graphs: GraphPool | None, seed: int) -> None:
        self._base = base
        self._pool = graphs
        self._recorded: dict[tuple[int, ...], Any] = {}
        device = base.memory.device
        generator = torch.Generator(device).manual_seed(seed)
        widths = {weight.shape[1] for weight in (*self._linears(), base.head)}
        self._inputs = {
            width: torch.empty(most_tokens, width, dtype=base.head.dtype, device=device).normal_(generator=generator)
            for width in sorted(widths)
        }

    def launch(self, chunks: Sequence[int]) -> Callable[[], None]:
        """What computes the products of a prompt of these chunks, one after the other; its results are nobody's."""
        key = tuple(chunks)
        compute = partial(self._compute, key)
        if self._pool is None:
            return compute
        if key not in self._recorded:
            # the library makes its choices in a first call, which no graph may record
            compute()
            self._recorded[key] = self._pool.capture(compute)
        replay: Callable[[], None] = self._recorded[key].replay
        return replay

    def _compute(self, chunks: Sequence[int]) -> None:
        for tokens in chunks:
            for weight in self._linears():
                F.linear(self._inputs[weight.shape[1]][:tokens], weight)
        F.linear(self._inputs[self._base.head.shape[1]][:1], self._base.head)

    def _linears(self) -> list[torch.Tensor]:
        return [weight for layer in self._base.layers for weight in (layer.qkv, layer.o, layer.gate_up, layer.down)]
