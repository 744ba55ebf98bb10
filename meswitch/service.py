"""An engine in a process of its own, so that it shares no interpreter lock with whoever sends the requests.

The process can outlive its engine: the next one finds Python's modules imported, the device's context made, and the
host images of random experts drawn and pinned.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import queue
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from meswitch import errors
from meswitch.config import EngineConfig
from meswitch.core import Engine, EngineStats, Event, GenerationRequest
from meswitch.cuda.kept_images import KeptImages
from meswitch.errors import EngineError, MeswitchError
from meswitch.phases import Phases

__all__ = ["EngineProcess"]

LOAD_POLL_S = 0.0005
"""How often the engine looks for an expert that is being loaded, when it can do nothing else."""

POLL_S = 0.05

START_TIMEOUT_S = 600.0

CLOSE_TIMEOUT_S = 10.0

UNLOAD_TIMEOUT_S = 60.0


class EngineProcess:
    """A running engine process. One thread may send while another polls.

    Args:
        config: of the engine.
        start_timeout_s: how long building the engine may take.

    Raises:
        MeswitchError: the engine cannot be built; the class and message of the process's own error.
        EngineError: the process died, or did not start in time.
    """

    def __init__(self, config: EngineConfig, *, start_timeout_s: float = START_TIMEOUT_S) -> None:
        context = multiprocessing.get_context("spawn")
        self._requests, requests = context.Pipe()
        self._control, control = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(config, requests, control), name="meswitch-engine", daemon=True
        )
        self._send_lock, self._poll_lock, self._control_lock = (threading.Lock() for _ in range(3))
        self._closed = False
        self._process.start()
        # the child holds its own ends now; with ours closed, its death ends the pipes
        requests.close()
        control.close()
        try:
            self._await_start(start_timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The engine's process id, to measure its memory."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return not self._closed and self._process.is_alive()

    def send(self, request: GenerationRequest) -> None:
        """Queue `request`. Its id must be unique among the requests in flight."""
        self._command("submit", request)

    def cancel(self, request_id: str) -> None:
        """Stop a request; unknown ids are ignored."""
        self._command("cancel", request_id)

    def poll(self, timeout_s: float) -> list[Event]:
        """The events since the last call; waits up to `timeout_s` for the first one.

        Raises:
            EngineError: the engine stopped.
        """
        events: list[Event] = []
        with self._poll_lock:
            try:
                while self._requests.poll(0 if events else timeout_s):
                    events.extend(self._requests.recv())
            except (EOFError, OSError) as cause:
                if events:
                    return events
                raise self._death() from cause
        return events

    def stats(self) -> EngineStats:
        """Counters and bytes, as they are between two steps.

        Raises:
            EngineError: the engine stopped.
        """
        with self._control_lock:
            try:
                self._control.send("stats")
                answer = self._control.recv()
            except (EOFError, OSError) as cause:
                raise self._death() from cause
        assert isinstance(answer, EngineStats)
        return answer

    def unload(self) -> int:
        """End the engine, but not the process: `load` builds another in it. Events that were not polled are lost.

        Returns:
            Bytes of the device that could not be given back; 0 where none was used.

        Raises:
            EngineError: the process died, or did not answer in time.
        """
        with self._control_lock:
            try:
                self._control.send("unload")
                give_up_s = time.monotonic() + UNLOAD_TIMEOUT_S
                while not self._control.poll(POLL_S):
                    # events that nobody reads would hold it up
                    self.poll(0)
                    if time.monotonic() >= give_up_s:
                        raise EngineError(f"the engine must end within {UNLOAD_TIMEOUT_S:g} s, it did not")
                answer = self._control.recv()
                self.poll(0)
            except (EOFError, OSError) as cause:
                raise self._death() from cause
        if not isinstance(answer, int):
            raise _as_error(*answer)
        return answer

    def load(self, config: EngineConfig, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Build an engine of `config`, after `unload`. If that fails, the process is over.

        Raises:
            MeswitchError: as the constructor.
        """
        with self._control_lock:
            try:
                try:
                    self._control.send(config)
                except OSError as cause:
                    raise self._death() from cause
                self._await_start(timeout_s)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Stop the process and wait for it. Idempotent; events that were not polled are lost."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._control.send("close")
        self._process.join(CLOSE_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._requests.close()
        self._control.close()

    def _command(self, name: str, value: object) -> None:
        with self._send_lock:
            try:
                self._requests.send((name, value))
            except OSError as cause:
                raise self._death() from cause

    def _await_start(self, timeout_s: float) -> None:
        if not self._control.poll(timeout_s):
            raise EngineError(f"the engine must start within {timeout_s:g} s, it did not")
        try:
            kind, message = self._control.recv()
        except (EOFError, OSError) as cause:
            raise self._death() from cause
        if kind != "ready":
            raise _as_error(kind, message)

    def _death(self) -> MeswitchError:
        if self._closed:
            return EngineError("the engine is closed")
        reason = ""
        with contextlib.suppress(EOFError, OSError, ValueError):
            while self._control.poll(0):
                answer = self._control.recv()
                reason = f": {answer[0]}: {answer[1]}" if isinstance(answer, tuple) else reason
        self._process.join(CLOSE_TIMEOUT_S)
        return EngineError(f"the engine's process stopped with exit code {self._process.exitcode}{reason}")


def _as_error(kind: str, message: str) -> MeswitchError:
    known = getattr(errors, kind, None) if kind in errors.__all__ else None
    return known(message) if known is not None else EngineError(f"the engine cannot start: {kind}: {message}")


class _Outbox:
    """Sends events from a thread of its own: the engine never waits for a reader, and late events travel together."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._events: queue.SimpleQueue[Sequence[Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="meswitch-events", daemon=True)
        self._thread.start()

    def put(self, events: Sequence[Event]) -> None:
        """Send `events` soon."""
        if events:
            self._events.put(events)

    def close(self) -> None:
        """Send what was put, and end the thread."""
        self._events.put(None)
        self._thread.join()

    def _run(self) -> None:
        events = self._events.get()
        while events is not None:
            batch = list(events)
            with contextlib.suppress(queue.Empty):
                # what ends the thread may come behind events that are still to be sent
                while (events := self._events.get_nowait()) is not None:
                    batch.extend(events)
            try:
                self._connection.send(batch)
            except OSError:
                return
            if events is not None:
                events = self._events.get()


def _serve(config: EngineConfig, requests: Connection[Any, Any], control: Connection[Any, Any]) -> None:
    # a Ctrl-C in a terminal reaches all its processes; the parent decides when this one ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kept = KeptImages()
    while True:
        if not _serve_one(config, requests, control, kept):
            return
        control.send(_give_back())
        try:
            command = control.recv()
        except (EOFError, ConnectionError):
            return
        if not isinstance(command, EngineConfig):
            return
        config = command


def _serve_one(
    config: EngineConfig, requests: Connection[Any, Any], control: Connection[Any, Any], kept: KeptImages
) -> bool:
    """Whether another engine is to follow this one, whose requests have ended."""
    phases = Phases()
    try:
        with phases.of("imports"):
            import torch
            from transformers.utils import logging

            from meswitch.engine import build_engine

        torch.set_num_threads(config.threads)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        engine = build_engine(config, kept=kept, phases=phases)
    except Exception as error:
        _report(error, control)
        return False
    control.send(("ready", ""))
    try:
        return _loop(engine, requests, control)
    except (EOFError, ConnectionError):
        # the parent is gone: nobody is left to answer
        return False
    except Exception as error:
        _report(error, control)
        raise SystemExit(1) from error
    finally:
        engine.close()


def _give_back() -> int:
    """Bytes of the device that are still taken once everything that nobody holds has been given back."""
    import torch

    gc.collect()
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 0
    torch.cuda.synchronize()
    # what the vendor's library keeps for each stream
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def _report(error: Exception, control: Connection[Any, Any]) -> None:
    # a user's mistake is one line, said by the parent; anything else is a bug, and this is where it happened
    if not isinstance(error, MeswitchError):
        traceback.print_exception(error)
    control.send((type(error).__name__, str(error)))


def _loop(engine: Engine, requests: Connection[Any, Any], control: Connection[Any, Any]) -> bool:
    """Serve until told to end; whether another engine follows."""
    outbox = _Outbox(requests)
    is_stuck = False
    while True:
        timeout_s = None if not engine.has_work else (LOAD_POLL_S if is_stuck else 0)
        for ready in wait([requests, control], timeout_s):
            if ready is control:
                command = control.recv()
                if command == "close":
                    return False
                if command == "unload":
                    outbox.close()
                    return True
                control.send(engine.stats())
            else:
                _take(engine, requests)
        events = engine.step()
        is_stuck = not events
        outbox.put(events)


def _take(engine: Engine, requests: Connection[Any, Any]) -> None:
    while requests.poll():
        name, value = requests.recv()
        if name == "submit":
            engine.submit(value)
        else:
            engine.cancel(value)
