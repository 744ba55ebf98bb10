"""Runs decode steps of any number of rows: as CUDA graphs, one for each bucket of rows, or launch by launch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from meswitch.cuda.decoder import MIN_WIDTH, Decoder
from meswitch.cuda.graphs import GraphPool
from meswitch.cuda.step_state import RowState, StepState

__all__ = ["StepRunner", "buckets", "step_width", "step_widths"]

MAX_WIDTH = 16

SHARING_ROWS = 8
"""With fewer rows, a second tile of an expert finds its codes in the L2 cache soon enough."""


def buckets(max_rows: int) -> tuple[int, ...]:
    """The numbers of rows that steps are made for: powers of two, and `max_rows`."""
    powers = [1 << i for i in range(max_rows.bit_length()) if 1 << i < max_rows]
    return (*powers, max_rows)


def step_width(slots: Sequence[int], bucket: int) -> int | None:
    """Rows of an expert that share one read of its codes, for rows in `slots`; `None` if all are the base's.

    One of `step_widths(bucket)`.
    """
    experts = [slot for slot in slots if slot >= 0]
    if not experts:
        return None
    share = len(experts) / len(set(experts))
    return MIN_WIDTH if share <= MIN_WIDTH else max(width for width in step_widths(bucket) if width is not None)


def step_widths(bucket: int) -> tuple[int | None, ...]:
    """The widths that steps of `bucket` rows are made for, each of which is a graph of its own.

    Rows of the base alone, of many experts, and where it pays, of few.
    """
    return (None, MIN_WIDTH) if bucket < SHARING_ROWS else (None, MIN_WIDTH, MAX_WIDTH)


@dataclass(frozen=True, slots=True)
class _Key:
    rows: int
    width: int | None


class StepRunner:
    """One decoder's steps.

    Args:
        decoder: computes them.
        max_rows: at most so many rows.
        device: of the decoder.
        graphs: records each kind of step once; without, every kernel is launched by itself.
    """

    def __init__(self, decoder: Decoder, *, max_rows: int, device: torch.device, graphs: GraphPool | None) -> None:
        self._decoder = decoder
        self._buckets = buckets(max_rows)
        self._state = StepState(max_rows, device=device)
        self._parts = {rows: self._state.tensors.first(rows) for rows in self._buckets}
        self._pool = graphs
        self._graphs: dict[_Key, Any] = {}
        self._key = _Key(0, None)
        self._rows = 0

    def load(self, rows: Sequence[RowState]) -> None:
        """Run these rows from the next step on; a kind of step that `warm_up` has not made is made now."""
        self._rows = len(rows)
        bucket = next(size for size in self._buckets if size >= len(rows))
        self._key = _Key(bucket, step_width([row.slot for row in rows], bucket))
        if self._pool is not None and self._key not in self._graphs:
            self._make(self._key)
        self._state.load(rows)

    def launch(self) -> None:
        """Start one step of the loaded rows; it advances them by itself."""
        if self._pool is None:
            self._step(self._key)
        else:
            self._graphs[self._key].replay()

    def read(self) -> list[int]:
        """The tokens that the last step chose, once it is done; -1 where there was none to choose."""
        return self._state.read(self._rows)

    def warm_up(self) -> None:
        """Compile and capture every step that can come, with rows that touch nothing."""
        for rows in reversed(self._buckets):
            for width in step_widths(rows) if self._decoder.has_experts else (None,):
                self._make(_Key(rows, width))

    def _step(self, key: _Key) -> None:
        self._decoder.step(self._parts[key.rows], width=key.width)

    def _make(self, key: _Key) -> None:
        self._state.load([])
        self._step(key)
        if self._pool is not None:
            self._graphs[key] = self._pool.capture(partial(self._step, key))
