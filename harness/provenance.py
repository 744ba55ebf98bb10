"""Where a run's numbers come from: commit, machine, processor, GPU, driver and versions."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import psutil

from harness.telemetry.gpu import GpuMonitor

__all__ = ["collect_provenance", "python_command", "recorded_commit", "redact"]

PACKAGES = ("meswitch", "torch", "transformers", "triton", "tokenizers", "safetensors", "numpy", "pydantic")
COMMIT_VARIABLE = "MESWITCH_COMMIT"

SECRET = re.compile(r"(token|secret|password|passwd|api[-_]?key|credential)", re.IGNORECASE)


def collect_provenance(gpu: GpuMonitor, *, commit: str | None = None) -> dict[str, object]:
    """Plain values for a manifest; what cannot be known is `None`. Nothing of the environment is copied.

    Args:
        gpu: that is used.
        commit: of the code, as a user says it; else what `MESWITCH_COMMIT` says, and else what git does. A copy of
            a checkout is not one, or one of an older commit.
    """
    state = gpu.state()
    said = commit or os.environ.get(COMMIT_VARIABLE)
    return {
        "git": {"commit": said, "dirty": None} if said else _git(Path(__file__).resolve().parent),
        "machine": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpu.description,
        "gpu_driver": gpu.driver,
        "gpu_state": None if state is None else asdict(state),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def recorded_commit(provenance: Mapping[str, object]) -> str | None:
    """The commit that `collect_provenance` found; `None` if it found none."""
    git = provenance.get("git")
    commit = git.get("commit") if isinstance(git, Mapping) else None
    return commit if isinstance(commit, str) else None


def redact(command: Sequence[str]) -> list[str]:
    """The command with the values of options that sound secret replaced by `***`."""
    shown: list[str] = []
    hide_next = False
    for word in command:
        name, equals, _ = word.partition("=")
        if hide_next and not word.startswith("-"):
            shown.append("***")
        elif equals and SECRET.search(name):
            shown.append(f"{name}=***")
        else:
            shown.append(word)
        hide_next = word.startswith("-") and not equals and bool(SECRET.search(word))
    return shown


def _git(folder: Path) -> dict[str, object] | None:
    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # an installed copy may lie inside someone else's repository: its commit says nothing about ours
    if ask("ls-files", "--error-unmatch", "provenance.py") is None:
        return None
    status = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _cpu_name() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or None
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def python_command() -> list[str]:
    """The command line of this process, secrets hidden."""
    return redact([Path(sys.argv[0]).name, *sys.argv[1:]])
