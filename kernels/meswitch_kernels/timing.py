"""Device time of a call, measured so that neither the cache nor the launches flatter it."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Timing", "matmul_rate", "read_bandwidth", "time_calls"]

MIN_CALLS = 24
"""Calls of one graph: its own launch costs some microseconds, which are shared among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Microseconds of one call.

    Attributes:
        median_us: over `repeats_us`.
        low_us, high_us: their extremes, which cover the true median with a probability of `1 - 2^(1 - n)`.
        repeats_us: each the mean over one replay.
    """

    repeats_us: tuple[float, ...]

    @property
    def median_us(self) -> float:
        """The middle repeat."""
        return statistics.median(self.repeats_us)

    @property
    def low_us(self) -> float:
        """The fastest repeat."""
        return min(self.repeats_us)

    @property
    def high_us(self) -> float:
        """The slowest repeat."""
        return max(self.repeats_us)


def time_calls(calls: Sequence[Callable[[], object]], *, repeats: int = 7) -> Timing:
    """The time of one of `calls`, which do the same work on different buffers.

    All are captured into one CUDA graph, several times over where they are few, and replayed.
    """
    for call in calls:
        call()
    torch.cuda.synchronize()
    rounds = -(-MIN_CALLS // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in [*calls] * rounds:
            call()
    graph.replay()
    samples = []
    for _ in range(repeats):
        start, end = _event(), _event()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) * 1e3 / (rounds * len(calls)))
    return Timing(repeats_us=tuple(samples))


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def read_bandwidth() -> float:
    """Bytes per second at which this device reads its memory: a float32 sum over 4 GiB."""
    data = torch.ones(1 << 30, device="cuda")
    return data.numel() * 4 / (time_calls([data.sum]).median_us * 1e-6)


def matmul_rate() -> float:
    """Operations per second of a bfloat16 product of two 8192 x 8192 matrices of random numbers."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    return 2 * size**3 / (time_calls([lambda: a @ b]).median_us * 1e-6)
