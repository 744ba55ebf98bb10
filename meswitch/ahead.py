"""Work on several items at once, results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["torch_threads", "work_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(
    items: Iterable[tuple[Item, int]], work: Callable[[Item], Result], *, limit: int, workers: int
) -> Iterator[tuple[Item, Result]]:
    """Every item with what `work` makes of it, in order; others are worked on in threads meanwhile.

    Args:
        items: with the room that each takes while it is worked on, and until its result was taken.
        limit: that the room of all items on their way may reach; an item that takes more goes alone.
        workers: threads.

    Raises:
        ValueError: there is no worker.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    waiting: deque[tuple[Item, int, Future[Result]]] = deque()
    taken = 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item, room in items:
                while waiting and (taken + room > limit or len(waiting) >= workers):
                    yield waiting[0][0], waiting[0][2].result()
                    taken -= waiting.popleft()[1]
                waiting.append((item, room, pool.submit(work, item)))
                taken += room
            while waiting:
                yield waiting[0][0], waiting[0][2].result()
                waiting.popleft()
        finally:
            for _, _, future in waiting:
                future.cancel()


@contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """The number of threads that torch used before; in the block it uses `count` for each operation.

    On a busy machine threads that share every operation mostly wait for each other; workers of one thread each do not.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
