"""The one clock of a run, and a twin that tests move by hand."""

import time
from typing import Protocol

__all__ = ["Clock", "FakeClock", "MonotonicClock"]


class Clock(Protocol):
    """Monotonic nanoseconds, and waiting for a moment of them."""

    def now_ns(self) -> int:
        """The present moment."""

    def sleep_until_ns(self, moment_ns: int) -> None:
        """Return at `moment_ns`, or at once if it has passed."""


class MonotonicClock:
    """`time.monotonic_ns`: shared by every process of the machine, never stepped."""

    def now_ns(self) -> int:
        """The present moment."""
        return time.monotonic_ns()

    def sleep_until_ns(self, moment_ns: int) -> None:
        """Return at `moment_ns`, or at once if it has passed."""
        remaining = moment_ns - self.now_ns()
        if remaining > 0:
            time.sleep(remaining / 1e9)


class FakeClock:
    """A clock that stands still unless someone sleeps on it or moves it."""

    def __init__(self, start_ns: int = 1_000_000_000) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """The present moment."""
        return self._now_ns

    def sleep_until_ns(self, moment_ns: int) -> None:
        """Move to `moment_ns`; a moment that has passed changes nothing."""
        self._now_ns = max(self._now_ns, moment_ns)

    def advance_ns(self, step_ns: int) -> None:
        """Move by `step_ns`, as when the client is busy."""
        if step_ns < 0:
            raise ValueError(f"a clock moves forward only, got {step_ns}")
        self._now_ns += step_ns
