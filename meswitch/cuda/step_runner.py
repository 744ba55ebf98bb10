"""Runs decode steps of any number of rows: as CUDA graphs, one for each bucket of rows, or launch by launch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from meswitch.cuda.decoder import MIN_WIDTH, Decoder
from meswitch.cuda.step_state import RowState, StepState, StepTensors

__all__ = ["StepRunner", "buckets", "step_width"]

MAX_WIDTH = 16


def buckets(max_rows: int) -> tuple[int, ...]:
    """The numbers of rows that steps are made for: powers of two, and `max_rows`."""
    powers = [1 << i for i in range(max_rows.bit_length()) if 1 << i < max_rows]
    return (*powers, max_rows)


def step_width(slots: Sequence[int]) -> int | None:
    """Rows of an expert that share one read of its codes, for rows in `slots`; `None` if all are the base's.

    Two widths only, each of which is one more graph: rows of many experts, and rows of few.
    """
    experts = [slot for slot in slots if slot >= 0]
    if not experts:
        return None
    share = len(experts) / len(set(experts))
    return MIN_WIDTH if share <= MIN_WIDTH else min(MAX_WIDTH, 1 << (len(experts) - 1).bit_length())


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
        use_graphs: capture each kind of step once and replay it; off, every kernel is launched by itself.
    """

    def __init__(self, decoder: Decoder, *, max_rows: int, device: torch.device, use_graphs: bool) -> None:
        self._decoder = decoder
        self._buckets = buckets(max_rows)
        self._state = StepState(max_rows, device=device)
        self._parts = {rows: self._state.tensors.first(rows) for rows in self._buckets}
        self._use_graphs = use_graphs
        self._graphs: dict[_Key, Any] = {}
        self._pool: Any = None
        self._key = _Key(0, None)
        self._rows = 0

    @property
    def decoder(self) -> Decoder:
        """What the steps are computed by."""
        return self._decoder

    def load(self, rows: Sequence[RowState]) -> None:
        """Run these rows from the next step on."""
        self._rows = len(rows)
        bucket = next(size for size in self._buckets if size >= len(rows))
        self._key = _Key(bucket, step_width([row.slot for row in rows]))
        self._state.load(rows)

    def launch(self) -> None:
        """Start one step of the loaded rows; it advances them by itself."""
        if not self._use_graphs:
            self._step(self._key)
            return
        if self._key not in self._graphs:
            self._capture(self._key)
        self._graphs[self._key].replay()

    def read(self) -> list[int]:
        """The tokens that the last step chose, once it is done; -1 where there was none to choose."""
        return self._state.read(self._rows)

    def warm_up(self) -> None:
        """Compile and capture the steps of every bucket, with rows that touch nothing.

        Steps of rows that share experts, and those of the base beside experts, are made when they are first needed.
        """
        width = MIN_WIDTH if self._decoder.has_experts else None
        for rows in reversed(self._buckets):
            self._state.load([])
            key = _Key(rows, width)
            if self._use_graphs:
                self._capture(key)
            else:
                self._step(key)

    def _step(self, key: _Key) -> None:
        self._decoder.step(self._parts[key.rows], width=key.width)

    def _capture(self, key: _Key) -> None:
        state = self._parts[key.rows]
        held = [tensor.clone() for tensor in state.changing()]
        # the first launch compiles, which a capture must not
        self._step(key)
        torch.cuda.synchronize()
        _restore(state, held)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(key)
        self._pool = graph.pool() if self._pool is None else self._pool
        self._graphs[key] = graph


def _restore(state: StepTensors, held: Sequence[torch.Tensor]) -> None:
    for tensor, value in zip(state.changing(), held, strict=True):
        tensor.copy_(value)
