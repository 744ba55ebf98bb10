"""Drives an engine in a process of its own on this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import DriverError
from meswitch.config import EngineConfig
from meswitch.core import EngineStats, Event, GenerationRequest

if TYPE_CHECKING:
    from meswitch.service import EngineProcess

__all__ = ["LocalDriver"]


class LocalDriver:
    """The engine of `config`. The client's process holds no weights and never imports torch."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._process: EngineProcess | None = None

    @property
    def pid(self) -> int | None:
        """The engine's process, `None` before `start` and after `stop`."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process and load the base. Raises what the engine raises."""
        from meswitch.service import EngineProcess

        if self._process is not None:
            raise DriverError("the engine was started already")
        self._process = EngineProcess(self._config)

    def send(self, request: GenerationRequest) -> None:
        """Hand over one request."""
        self._running.send(request)

    def cancel(self, request_id: str) -> None:
        """Stop one request."""
        self._running.cancel(request_id)

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """The events since the last call; waits at most `timeout_s` for the first one."""
        return self._running.poll(timeout_s)

    def stats(self) -> EngineStats | None:
        """The engine's counters and bytes."""
        return self._running.stats()

    def stop(self) -> None:
        """End the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    @property
    def _running(self) -> "EngineProcess":
        if self._process is None:
            raise DriverError("the engine is not running")
        return self._process
