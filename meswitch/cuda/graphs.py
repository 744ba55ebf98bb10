"""CUDA graphs of work that is launched again and again: recorded once, they cost the host one launch."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

__all__ = ["GraphPool"]


class GraphPool:
    """Records graphs that share the memory of what they compute in between, so that only one of them may run at a time.

    What a graph leaves behind must lie in tensors that were made outside of it.

    Args:
        device: of the graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self._handle: Any = torch.cuda.graph_pool_handle()
        # graphs and events of an engine that is gone: what frees one during a capture breaks it
        gc.collect()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(self, work: Callable[[], None]) -> Any:
        """A graph of what `work` launches; it must have run before, so that nothing is left to compile.

        Raises whatever `work` raises, and nothing is left recording then.
        """
        # `torch.cuda.graph` would also collect garbage and empty the allocator's cache, each time
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream), _without_collection():
            graph.capture_begin(pool=self._handle)
            try:
                work()
            except BaseException:
                # what failed may have ended the capture: that is a consequence, and the cause is what to say
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep cycles, in which graphs and events may lie, from being collected within the block."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
