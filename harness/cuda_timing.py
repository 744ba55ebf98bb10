"""Device time of calls that are launched one after the other."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["BlockTimer", "time_block"]

BlockTimer = Callable[[Callable[[], None], int], float]
"""Milliseconds that a number of calls take on the device, all together."""


def time_block(launch: Callable[[], None], count: int) -> float:
    """Milliseconds of `count` calls on the device, after one that is not counted."""
    launch()
    start, end = _event(), _event()
    start.record()
    for _ in range(count):
        launch()
    end.record()
    end.synchronize()
    elapsed: float = start.elapsed_time(end)
    return elapsed


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
