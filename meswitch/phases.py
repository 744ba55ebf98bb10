"""Where the seconds of a long job go."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["Phases"]


class Phases:
    """Seconds by the name of a phase; phases of several threads add up.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> Mapping[str, float]:
        """Of each phase, in the order in which they ended first."""
        with self._lock:
            return dict(self._seconds)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the block's seconds for a phase, also if it fails."""
        started = self._clock()
        try:
            yield
        finally:
            taken = self._clock() - started
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + taken
