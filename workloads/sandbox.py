"""Verdicts on programs that a model wrote: run against tests in a process of their own, with limits.

It keeps accidents in: endless loops, fork bombs, memory without end, files left behind, programs that end or print
success before they are tested. It does not keep an attacker in: a program may read files, and whoever knows this code
can reach into the interpreter that tests it.

A user's own processes and root's alike can start no other process or thread. Root's programs run as another user.
Without namespaces, which some machines refuse, programs can reach the network; `Verdict.isolated` says which it was.
"""

import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Literal, get_args

from workloads.errors import SandboxError

__all__ = ["OUTCOMES", "Outcome", "SandboxLimits", "Verdict", "judge"]

Outcome = Literal["passed", "failed", "timeout", "memory", "error"]
"""`failed`: a test's assertion was false; `error`: the program raised, ended or was killed before its tests were."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

NOBODY = 65534
OPEN_FILES = 32
VERDICT_BYTES = 8192
PROBE = """
import os
try:
    child = os.fork()
except OSError:
    pass
else:
    # limits are not kept: this process and the other end before the tests
    os._exit(0)

def version():
    import decimal, sys
    return sys.version
"""
"""Passes where no process can be started and the interpreter finds its own library, not another's in its place."""

NAMESPACES = ("--net", "--ipc", "--pid", "--fork", "--kill-child")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What one program may take.

    Attributes:
        seconds: from its start to its end, the interpreter's start included; of processor time, rounded up.
        memory_bytes: of address space.
        file_bytes: of each file.
        output_bytes: of stdout and stderr together that are kept; the rest is read and dropped.
    """

    seconds: float = 10.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 1 << 20
    output_bytes: int = 4096

    def __post_init__(self) -> None:
        if self.seconds <= 0 or min(self.memory_bytes, self.file_bytes, self.output_bytes) < 1:
            raise ValueError(f"limits must be positive, got {self}")

    def of_process(self) -> dict[str, int]:
        """The limits that the system keeps, by their names in `resource`."""
        return {
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_CPU": int(self.seconds) + 1,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_CORE": 0,
            "RLIMIT_NOFILE": OPEN_FILES,
            # itself: neither a process nor a thread more
            "RLIMIT_NPROC": 1,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one program fared.

    Attributes:
        detail: a few words: which test, which error.
        output: the beginning of what it printed.
        isolated: whether it had neither network nor other processes in sight.
    """

    outcome: Outcome
    detail: str
    output: str
    seconds: float
    isolated: bool


def judge(candidate: str, tests: Sequence[str], limits: SandboxLimits | None = None) -> Verdict:
    """Whether Python code passes all `tests`, statements that raise `AssertionError` if it is wrong.

    Raises:
        SandboxError: there is no test, or this machine cannot keep the limits.
    """
    if not tests:
        raise SandboxError("a program must have at least one test, got none")
    return _run(_prefix(), candidate, tests, limits or SandboxLimits())


@cache
def _prefix() -> tuple[str, ...]:
    """What to put before a command so that it runs apart: the first of the known ways that works here."""
    if sys.platform != "linux":
        raise SandboxError(f"programs are run with limits that only Linux keeps, and this is {sys.platform}")
    for prefix in _prefixes():
        if all(map(shutil.which, {"unshare", "setpriv"}.intersection(prefix))):
            found = _run(prefix, PROBE, [f"assert version() == {sys.version!r}"], SandboxLimits())
            if found.outcome == "passed":
                return prefix
    raise SandboxError(
        "programs cannot be run with limits here: root needs setpriv of util-linux and a Python that others can read, "
        "and the system must keep RLIMIT_NPROC, which some sandboxes do not; try as another user, or elsewhere"
    )


def _prefixes() -> Iterator[tuple[str, ...]]:
    """The known ways, the closest first."""
    if os.geteuid():
        yield ("unshare", "--user", "--map-current-user", *NAMESPACES, "--")
        yield ()
        return
    for apart in (("unshare", *NAMESPACES, "--"), ()):
        # a Python below /root can be read by others with that capability alone
        for kept in ("-all", "-all,+dac_read_search"):
            capabilities = ("--bounding-set", kept, "--inh-caps", kept, "--ambient-caps", kept)
            user = ("--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--no-new-privs")
            yield (*apart, "setpriv", "--pdeathsig", "KILL", *user, *capabilities, "--")


def _run(prefix: Sequence[str], candidate: str, tests: Sequence[str], limits: SandboxLimits) -> Verdict:
    started = time.monotonic()
    with _folder() as folder, tempfile.TemporaryFile() as job:
        receiving, channel = os.pipe()
        with os.fdopen(receiving, "rb") as said:
            try:
                token = secrets.token_hex(16)
                content = {"candidate": candidate, "tests": list(tests), "limits": limits.of_process()}
                job.write(json.dumps({**content, "channel": channel, "token": token}).encode())
                job.seek(0)
                process = subprocess.Popen(
                    [*prefix, sys.executable, "-I", "-S", "-B", "-c", _runner()],
                    stdin=job,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env={"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONHASHSEED": "0"},
                    pass_fds=[channel],
                    start_new_session=True,
                )
            finally:
                os.close(channel)
            assert process.stdout is not None
            with process.stdout as printed:
                verdict, output, in_time = _followed(process, said, printed, started + limits.seconds, limits)
        outcome, detail = _outcome(verdict, token, process.returncode, in_time=in_time, limits=limits)
    return Verdict(
        outcome=outcome,
        detail=detail,
        output=output.decode(errors="replace"),
        seconds=time.monotonic() - started,
        isolated="unshare" in prefix,
    )


@contextmanager
def _folder() -> Iterator[Path]:
    """A directory that the program may write to, removed with all that is in it."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-"))
    try:
        if not os.geteuid():
            os.chown(folder, NOBODY, NOBODY)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _followed(
    process: subprocess.Popen[bytes], said: IO[bytes], printed: IO[bytes], deadline: float, limits: SandboxLimits
) -> tuple[bytes, bytes, bool]:
    """What it said on its channel and what it printed, each cut off, and whether it ended in time.

    It is dead then, and also where this is interrupted.
    """
    try:
        said_bytes, printed_bytes = _read(said, printed, deadline, limits)
        process.wait(max(0.0, deadline - time.monotonic()))
        in_time = True
    except subprocess.TimeoutExpired:
        in_time = False
    finally:
        _kill(process)
    return said_bytes, printed_bytes, in_time


def _read(said: IO[bytes], printed: IO[bytes], deadline: float, limits: SandboxLimits) -> tuple[bytes, bytes]:
    """What comes on a program's channel and what it prints, each cut off, until both end or its time is over."""
    said_bytes, printed_bytes = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for file in (said, printed):
            selector.register(file, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                piece = os.read(key.fd, 1 << 16)
                if not piece:
                    selector.unregister(key.fileobj)
                room, most = (
                    (printed_bytes, limits.output_bytes) if key.fd == printed.fileno() else (said_bytes, VERDICT_BYTES)
                )
                room += piece[: max(0, most - len(room))]
    return bytes(said_bytes), bytes(printed_bytes)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End its whole group, whatever is left of it."""
    # the first process of a namespace, with which all others end; it may have left the group
    children = _children(process.pid)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    if children:
        # `unshare` waits for it and ends, so that nobody else has to
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _children(pid: int) -> list[int]:
    """The processes that `pid` started and has not waited for."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _outcome(verdict: bytes, token: str, code: int, *, in_time: bool, limits: SandboxLimits) -> tuple[Outcome, str]:
    """What came of it, and a few words."""
    # a verdict may follow what a candidate wrote there
    _, found, rest = verdict.decode(errors="replace").rpartition(f"{token} ")
    outcome, _, detail = rest.partition(" ")
    if found and outcome in OUTCOMES:
        return outcome, detail
    if not in_time or code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
        return "timeout", f"not done after {limits.seconds:g} s"
    return "error", f"ended by {_named(code)} before its tests were"


def _named(code: int) -> str:
    """An exit code or a signal."""
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"


@cache
def _runner() -> str:
    return Path(__file__).with_name("candidate.py").read_text(encoding="utf-8")
