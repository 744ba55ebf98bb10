"""Drives engines in processes of their own on this machine: one each, or one for all of them in turn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import DriverError
from meswitch.config import EngineConfig
from meswitch.core import EngineStats, Event, GenerationRequest
from meswitch.errors import MeswitchError

if TYPE_CHECKING:
    from meswitch.service import EngineProcess

__all__ = ["LocalDriver", "LocalDrivers"]

LEFT_BYTES = 128 << 20
"""More than this of the device's memory left over from one engine would count as the next one's."""


class LocalDriver:
    """The engine of `config`. The client's process holds no weights and never imports torch.

    Args:
        config: of the engine.
        processes: where its process comes from and goes to; by default it is started and ended with the driver.
    """

    def __init__(self, config: EngineConfig, processes: "LocalDrivers | None" = None) -> None:
        self._config = config
        self._processes = processes
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
        idle = self._processes.take() if self._processes is not None else None
        if idle is not None:
            idle.load(self._config)
        self._process = idle or EngineProcess(self._config)

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
        """End the engine. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._processes is None:
            process.close()
        else:
            self._processes.give(process)

    @property
    def _running(self) -> "EngineProcess":
        if self._process is None:
            raise DriverError("the engine is not running")
        return self._process


class LocalDrivers:
    """Makes drivers whose engines live in one process, one after the other, as long as each leaves it as it was.

    Python's modules, the device's context and the pinned images of random experts are then made once.
    """

    def __init__(self) -> None:
        self._idle: EngineProcess | None = None

    def __call__(self, config: EngineConfig) -> LocalDriver:
        """A driver of an engine of `config`, not started."""
        return LocalDriver(config, self)

    def take(self) -> "EngineProcess | None":
        """The process that an engine left, for the one who asked; `None` if there is none that still runs."""
        process, self._idle = self._idle, None
        if process is not None and not process.is_alive:
            # it was killed while nobody looked: that is no failure of the next engine
            process.close()
            return None
        return process

    def give(self, process: "EngineProcess") -> None:
        """End the engine of `process`, and keep the process for the next one if it is in order."""
        try:
            left_bytes = process.unload()
        except MeswitchError:
            # it stopped, or does not answer: whoever used it was told
            left_bytes = None
        if left_bytes is not None and left_bytes <= LEFT_BYTES and self._idle is None:
            self._idle = process
        else:
            process.close()

    def close(self) -> None:
        """End the process. Idempotent."""
        process = self.take()
        if process is not None:
            process.close()
