"""Orderly ends: a SIGTERM is taken as a Ctrl-C is, and workers end with the process that started them."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

__all__ = ["INTERRUPTED", "TERMINATED", "run_to_exit_code", "stay_with_parent"]

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

PR_SET_PDEATHSIG = 1


def run_to_exit_code(run: Callable[[], int]) -> int:
    """The exit code of `run`; 143 if a SIGTERM came, which `run` sees as a `KeyboardInterrupt`. For a main thread."""
    received = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        # whoever sends a second one does not want to wait
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, interrupt)
    try:
        code = run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, earlier)
    return TERMINATED if received else code


def stay_with_parent() -> None:
    """Leave a Ctrl-C, which reaches all processes of a terminal, to the parent, and on Linux end when the parent does.

    For a worker that `multiprocessing` spawned, before it does anything else.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    # it may have ended before this was asked for
    if parent is not None and os.getppid() != parent.pid:
        raise SystemExit(1)
