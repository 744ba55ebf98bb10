"""How fast this machine copies from pinned host memory to its GPU: what every switch is measured against."""

import statistics
from typing import Any

import torch

__all__ = ["measure_host_to_device"]

COPY_BYTES = 1 << 30


def measure_host_to_device(index: int = 0, *, repeats: int = 7, nbytes: int = COPY_BYTES) -> float:
    """Bytes a second: the median of `repeats` copies of `nbytes`, timed by the GPU's own events.

    Args:
        index: of the GPU.
        repeats: copies; one before them is not counted.
        nbytes: of pinned memory, and of memory of the GPU.
    """
    device = torch.device("cuda", index)
    source = torch.zeros(nbytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(nbytes, dtype=torch.uint8, device=device)
    rates: list[float] = []
    for _ in range(repeats + 1):
        start, end = _event(), _event()
        start.record()
        target.copy_(source, non_blocking=True)
        end.record()
        end.synchronize()
        rates.append(nbytes / (start.elapsed_time(end) / 1e3))
    return statistics.median(rates[1:])


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
