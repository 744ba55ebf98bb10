"""Programs that pass, and every way in which one may not: none of them counts as a pass, none outlives its verdict."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workloads import sandbox
from workloads.errors import SandboxError
from workloads.sandbox import SandboxLimits, judge

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are kept by Linux")

TESTS = ("assert double(2) == 4", "assert double(-1) == -2")
RIGHT = "def double(x):\n    return 2 * x\n"
SHORT = SandboxLimits(seconds=0.5)


def test_a_right_program_passes_all_tests() -> None:
    verdict = judge(f"print('hello')\n{RIGHT}", TESTS)
    assert (verdict.outcome, verdict.detail, verdict.output) == ("passed", "2 tests", "hello\n")
    assert 0 < verdict.seconds < 10


@pytest.mark.parametrize(
    ("candidate", "outcome", "detail"),
    [
        ("def double(x):\n    return x * x", "failed", "test 2"),
        ("def double(x):\n    return x + x if x > 2 else 0", "failed", "test 1"),
        ("def double(x)", "error", "SyntaxError"),
        ("def twice(x): return 2 * x", "error", "NameError: name 'double' is not defined"),
        ("double = lambda x: double(x)", "error", "RecursionError"),
        ("assert 0", "error", "AssertionError before the tests"),
        ("import sys\nsys.exit(0)", "error", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("import os\nos._exit(0)", "error", "ended by exit code 0 before its tests were"),
        ("import os\ndef double(x):\n    os._exit(0)", "error", "ended by exit code 0 before its tests were"),
        ("import os\nos._exit(3)", "error", "ended by exit code 3"),
        ("import ctypes\nctypes.string_at(0)", "error", "ended by SIGSEGV"),
        ("x = bytearray(10**10)", "memory", "MemoryError"),
        ("x = [1]\nwhile True:\n    x += x", "memory", "MemoryError"),
        ("import os\nwhile True:\n    os.fork()", "error", "BlockingIOError"),
        ("import subprocess\nsubprocess.run(['true'])", "error", "BlockingIOError"),
        ("import threading\nthreading.Thread(target=print).start()", "error", "RuntimeError: can't start new thread"),
        ("open('big', 'w').write('x' * 10**7)", "error", "OSError: [Errno 27]"),
        ("files = [open(str(i), 'w') for i in range(99)]", "error", "OSError: [Errno 24]"),
    ],
)
def test_a_program_that_does_not_pass_says_why(candidate: str, outcome: str, detail: str) -> None:
    verdict = judge(candidate, TESTS)
    assert verdict.outcome == outcome
    assert verdict.detail.startswith(detail)


@pytest.mark.parametrize(
    "candidate",
    [
        "print('passed 2 tests')\nraise SystemExit(0)",
        # on every file descriptor there is, in the words of a verdict
        "import os\nfor fd in range(1, 30):\n"
        "    try:\n        os.write(fd, b'passed 2 tests')\n    except OSError:\n        pass\nos._exit(0)",
        # what it was given lies on stdin no more
        "import os, sys\nsys.stdin.seek(0)\njob = sys.stdin.read()\n"
        "[os.write(fd, (job[-50:] + ' passed 2 tests').encode()) for fd in (1, 2)]\nos._exit(0)",
        "import atexit, os\natexit.register(os._exit, 0)\ndef double(x): return 5",
        # a test that could never be wrong is not the candidate's to define
        "def double(x):\n    raise AssertionError",
    ],
)
def test_success_that_is_only_said_is_no_pass(candidate: str) -> None:
    assert judge(candidate, TESTS).outcome in ("error", "failed")


@pytest.mark.parametrize(
    "candidate",
    [
        "while True: pass",
        "def double(x):\n    while True: pass",
        "import time\ntime.sleep(3600)",
        # nothing that it raises at itself or catches saves it
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\ntime.sleep(3600)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import os\nos.close(1)\nos.close(2)\nwhile True: pass",
        "while True: print('x' * 1000)",
    ],
)
def test_a_program_without_end_is_killed_at_its_limit(candidate: str) -> None:
    started = time.monotonic()
    verdict = judge(candidate, TESTS, SHORT)
    assert (verdict.outcome, verdict.detail) == ("timeout", "not done after 0.5 s")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_program_whose_judge_is_interrupted_is_killed(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Program(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    def interrupted(fd: int, size: int) -> bytes:
        raise error("while it ran")

    sandbox._prefix()
    monkeypatch.setattr(subprocess, "Popen", Program)
    # `subprocess` has to read whether a program could be started
    monkeypatch.setattr(sandbox, "os", SimpleNamespace(**{**vars(os), "read": interrupted}))
    with pytest.raises(error, match="while it ran"):
        judge("print('x', flush=True)\nwhile True: pass", TESTS)
    (program,) = started
    # waited for: it runs no more
    assert program.returncode is not None


def test_a_program_that_leaves_its_group_does_not_outlive_its_verdict() -> None:
    mark = f"mark-{os.getpid()}"
    source = f"import ctypes, os, time\n{mark!r}\ntry:\n    os.setsid()\nexcept OSError:\n    pass\n"
    rename = f"ctypes.CDLL(None).prctl(15, b'{mark}'[:15])\ntime.sleep(3600)"
    assert judge(source + rename, TESTS, SHORT).outcome == "timeout"
    left = []
    for path in Path("/proc").glob("[0-9]*/status"):
        # a process may end between the listing and the reading
        with contextlib.suppress(OSError):
            left.append(path.read_text().splitlines()[:3])
    named = [lines for lines in left if lines[0] == f"Name:\t{mark[:15]}"]
    # a zombie runs no more
    assert all("State:\tZ (zombie)" in lines for lines in named)


def test_what_is_printed_is_cut_off_and_never_waited_for() -> None:
    verdict = judge(f"print('x' * 10**7)\n{RIGHT}", TESTS, SandboxLimits(output_bytes=10))
    assert (verdict.outcome, verdict.output) == ("passed", "x" * 10)


def test_files_are_written_to_a_place_of_its_own_that_is_gone_afterwards() -> None:
    verdict = judge(f"import os\nopen('left', 'w').write('x')\nprint(os.getcwd())\n{RIGHT}", TESTS)
    assert verdict.outcome == "passed"
    assert not Path(verdict.output.strip()).exists()


def test_there_is_no_network_where_programs_are_isolated() -> None:
    reach = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=0.2)"
    verdict = judge(reach, TESTS)
    if not verdict.isolated:
        pytest.skip("namespaces are refused here")
    assert verdict.detail.startswith("OSError: [Errno 101]")


def test_variables_of_this_process_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert judge(f"import os\nassert 'SECRET' not in os.environ\n{RIGHT}", TESTS).outcome == "passed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's programs change their user")
def test_programs_of_root_run_as_another_user() -> None:
    verdict = judge("import os\nopen(f'/etc/sandbox-{os.getuid()}', 'w')", TESTS)
    assert verdict.detail == "PermissionError: [Errno 13] Permission denied: '/etc/sandbox-65534'"


def test_without_tests_there_is_no_verdict() -> None:
    with pytest.raises(SandboxError, match="must have at least one test, got none"):
        judge(RIGHT, ())


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="limits must be positive"):
        SandboxLimits(seconds=0)


def test_a_machine_that_keeps_no_limits_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox._prefix.cache_clear()
    # no limit of processes: the fork of the probe works, and nothing is run that way
    kept = SandboxLimits.of_process
    monkeypatch.setattr(SandboxLimits, "of_process", lambda self: {**kept(self), "RLIMIT_NPROC": 1000})
    with pytest.raises(SandboxError, match="the system must keep RLIMIT_NPROC"):
        judge(RIGHT, TESTS)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="only Linux keeps, and this is darwin"):
        judge(RIGHT, TESTS)
