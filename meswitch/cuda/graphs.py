"""CUDA graphs of work that is launched again and again: recorded once, they cost the host one launch."""

from collections.abc import Callable
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
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(self, work: Callable[[], None]) -> Any:
        """A graph of what `work` launches; it must have run before, so that nothing is left to compile."""
        # `torch.cuda.graph` would also collect garbage and empty the allocator's cache, each time
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._handle)
            try:
                work()
            finally:
                graph.capture_end()
        return graph
