"""Runs chunks of prompts of any length: as CUDA graphs, a few for each of some lengths, or launch by launch.

A chunk is cut where attention begins, since that reads as much of the cache as there is: everything between two
attentions is one graph, and the weights that it reads are waited for in front of it. So a prompt can follow the copy of
its expert layer by layer, and costs the host some hundred launches instead of as many for each layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from meswitch.cuda.decoder import Decoder
from meswitch.cuda.graphs import GraphPool
from meswitch.cuda.prompt_state import PromptTensors
from meswitch.cuda.step_state import RowState, StepState

__all__ = ["PADDED_TOKENS", "PromptRunner", "padded_tokens", "prompt_sizes"]

PADDED_TOKENS = 16
"""Lengths are multiples of so many tokens: kernels are compiled for those apart from all others."""

SIZE_STEP = 64
"""Between the larger lengths: the tensor cores' tiles hold so many tokens, and a last one is never half empty."""


def padded_tokens(tokens: int) -> int:
    """The next multiple of `PADDED_TOKENS`."""
    return -(-tokens // PADDED_TOKENS) * PADDED_TOKENS


def prompt_sizes(chunk_tokens: int) -> tuple[int, ...]:
    """The lengths that chunks of up to `chunk_tokens` tokens are padded to, in ascending order."""
    most = padded_tokens(chunk_tokens)
    return (
        *(size for size in (PADDED_TOKENS, 2 * PADDED_TOKENS, *range(SIZE_STEP, most, SIZE_STEP)) if size < most),
        most,
    )


@dataclass(frozen=True, slots=True)
class _Key:
    """What graphs are made for: a length, the base's or an expert's weights, and how many of its bit planes."""

    tokens: int
    has_expert: bool
    refined: bool


class PromptRunner:
    """One decoder's prompts.

    Args:
        decoder: computes them.
        tensors: of a chunk; decoders of which one computes at a time may share them.
        graphs: records what lies between attentions, once; without, every kernel is launched by itself.
    """

    def __init__(self, decoder: Decoder, tensors: PromptTensors, *, graphs: GraphPool | None) -> None:
        self._decoder = decoder
        self._pool = graphs
        self._sizes = prompt_sizes(tensors.tokens.shape[0])
        self._parts = {size: tensors.first(size) for size in self._sizes}
        self._last = torch.zeros_like(tensors.h[:1])
        self._first = StepState(1, device=tensors.h.device)
        self._graphs: dict[_Key, tuple[Any, ...]] = {}
        self._choice: Any = None

    def run(
        self,
        tokens: torch.Tensor,
        *,
        start: int,
        cache_row: int,
        slot: int,
        wait: Callable[[int], None],
        refined: bool = True,
    ) -> None:
        """Compute a chunk of one prompt, whose keys and values are written. Never waits for the device.

        Args:
            tokens: `[T]` int64, on the device; T at most what the tensors hold.
            start: position of the first of them; those before it are in the cache.
            cache_row: of the request.
            slot: of its expert; -1 for the base.
            wait: called with a segment's index before that segment's weights are read.
            refined: whether all bit planes of the slot are in place.
        """
        T = tokens.shape[0]
        size = next(size for size in self._sizes if size >= T)
        prompt, key = self._parts[size], _Key(size, slot >= 0, refined or not self._decoder.has_planes)
        prompt.load(tokens, start=start, cache_row=cache_row, slot=slot)
        for piece in range(self._decoder.pieces):
            for segment in self._decoder.segments_of(piece):
                wait(segment)
            if self._pool is not None:
                self._graphs[key][piece].replay()
            else:
                self._compute(piece, key)
            if piece < self._decoder.pieces - 1:
                self._decoder.attend(piece, prompt, tokens=T, start=start, cache_row=cache_row)
        self._last.copy_(prompt.h[T - 1 : T])

    def first_token(self, row: RowState, *, wait: Callable[[int], None]) -> int:
        """The token after the last one that `run` computed, which is the newest of `row`; -1 if there is none."""
        self._first.load([row])
        wait(self._decoder.last_segment)
        if self._pool is not None:
            self._choice.replay()
        else:
            self._choose()
        (token,) = self._first.read(1)
        return token

    def warm_up(self) -> None:
        """Compile and capture every chunk that can come, by computing some that nobody asked for."""
        for size in reversed(self._sizes):
            # attention reads the cache: it must find numbers there
            tokens = torch.zeros_like(self._parts[size].tokens)
            self._parts[size].load(tokens, start=0, cache_row=0, slot=0)
            for key in self._keys(size):
                for piece in range(self._decoder.pieces):
                    self._compute(piece, key)
                self._decoder.attend(0, self._parts[size], tokens=size, start=0, cache_row=0)
                if self._pool is not None:
                    self._graphs[key] = self._capture(key, self._pool)
        self._first.load([])
        self._choose()
        if self._pool is not None:
            self._choice = self._pool.capture(self._choose)

    def _keys(self, size: int) -> tuple[_Key, ...]:
        base = _Key(size, has_expert=False, refined=True)
        if not self._decoder.has_experts:
            return (base,)
        planes = (True, False) if self._decoder.has_planes else (True,)
        return (base, *(_Key(size, has_expert=True, refined=refined) for refined in planes))

    def _compute(self, piece: int, key: _Key) -> None:
        self._decoder.compute(piece, self._parts[key.tokens], has_expert=key.has_expert, refined=key.refined)

    def _choose(self) -> None:
        self._decoder.first_token(self._last, self._first.tensors)

    def _capture(self, key: _Key, pool: GraphPool) -> tuple[Any, ...]:
        return tuple(pool.capture(partial(self._compute, piece, key)) for piece in range(self._decoder.pieces))
