"""What a signal does to a process and its workers, in processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meswitch.termination import run_to_exit_code

SLEEPER = """
import signal, sys
from meswitch.termination import run_to_exit_code

def run():
    try:
        print("ready", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("cleaned", flush=True)
        {then}
    return 0

sys.exit(run_to_exit_code(run))
"""

PARENT = """
import multiprocessing, time
from meswitch.termination import stay_with_parent

def work():
    stay_with_parent()
    print("ready", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=work).start()
    time.sleep(600)
"""


@pytest.mark.parametrize("then", ["raise", "return 130", "return 1"])
def test_a_sigterm_cleans_up_like_a_ctrl_c_and_ends_with_143(then: str) -> None:
    command = [sys.executable, "-c", SLEEPER.format(then=then)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("cleaned\n", "")
    assert process.returncode == 143


def test_a_ctrl_c_ends_with_130() -> None:
    def run() -> int:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    assert run_to_exit_code(run) == 130
    assert run_to_exit_code(lambda: 3) == 3
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(sys.platform != "linux", reason="asked of the Linux kernel")
def test_a_worker_leaves_a_ctrl_c_to_its_parent_and_ends_when_that_is_killed() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(worker), signal.SIGINT)
        process.kill()
        # the worker holds the other end: it is at its end once the worker is
        assert process.stdout.read() == ""
