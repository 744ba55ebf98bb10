"""What the load generator knows of a system under test."""

from collections.abc import Sequence
from typing import Protocol

from meswitch.core import EngineStats, Event, GenerationRequest

__all__ = ["Driver"]


class Driver(Protocol):
    """A system under test. All methods are called from one thread."""

    @property
    def pid(self) -> int | None:
        """The process that does the work, `None` if it is this one."""

    def start(self) -> None:
        """Start it and return when it can serve.

        Raises:
            DriverError or MeswitchError: it cannot start.
        """

    def send(self, request: GenerationRequest) -> None:
        """Hand over one request. Returns at once, however busy the system is."""

    def cancel(self, request_id: str) -> None:
        """Stop a request that was sent; it ends as cancelled. Unknown ids are ignored."""

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """The events since the last call, in order; waits at most `timeout_s` for the first one.

        Raises:
            DriverError or MeswitchError: the system stopped.
        """

    def stats(self) -> EngineStats | None:
        """The system's own counters; `None` if it offers none."""

    def stop(self) -> None:
        """Stop it and free what it holds. Idempotent, and allowed before `start`."""
