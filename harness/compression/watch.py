"""A command run to its end, with the processor time that it took and the most anonymous memory that it was seen with.

Anonymous memory is what a process has written and what no file can give back: `RssAnon` of `/proc/PID/status`, without
the page cache and without the mapped code of libraries.
"""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import HarnessError, UsageError

__all__ = ["Watched", "read_anonymous", "watch"]

PERIOD_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a process took.

    Attributes:
        seconds: from its start to its end; its interpreter and imports are in it.
        cpu_seconds: of all its threads.
        peak_anonymous_bytes: the most of all samples, `PERIOD_S` apart.
        samples: how many there were.
        output: what it wrote to stdout.
    """

    seconds: float
    cpu_seconds: float
    peak_anonymous_bytes: int
    samples: int
    output: str


def watch(command: Sequence[str], env: Mapping[str, str], *, limit_s: float | None = None) -> Watched:
    """Run `command` to its end.

    Raises:
        UsageError: this system does not tell anonymous memory.
        HarnessError: the command failed, with its last line on stderr; or it took more than `limit_s` and was killed.
    """
    if read_anonymous(Path("/proc/self/status")) is None:
        raise UsageError("anonymous memory is read from /proc/PID/status, which this system does not have; use Linux")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(command, env=dict(env), stdout=out, stderr=err)
        peak = samples = 0
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                found = read_anonymous(Path(f"/proc/{process.pid}/status"))
                peak, samples = max(peak, found or 0), samples + 1
                if limit_s is not None and time.monotonic() - started > limit_s:
                    raise HarnessError(f"the command was killed after the {limit_s:g} s that --time-limit allows")
                time.sleep(PERIOD_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.monotonic() - started
        # so that nothing waits for it again
        process.returncode = os.waitstatus_to_exitcode(status)
        output, errors = (text_of(file) for file in (out, err))
    if process.returncode:
        last = (errors.strip() or output.strip() or "nothing was said").splitlines()[-1]
        raise HarnessError(f"{command[0]} ended with exit code {process.returncode}: {last}")
    return Watched(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_anonymous_bytes=peak,
        samples=samples,
        output=output,
    )


def text_of(file: IO[bytes]) -> str:
    """All that was written to it."""
    file.seek(0)
    return file.read().decode(errors="replace")


def read_anonymous(status: Path) -> int | None:
    """The anonymous bytes in a process's status file; `None` if it says nothing of them, or is gone."""
    try:
        found = re.search(r"^RssAnon:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
