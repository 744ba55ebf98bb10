"""How much memory this process may still take, before the system's only answer is to kill it."""

from pathlib import Path

import psutil

__all__ = ["available_bytes"]

CGROUPS = Path("/sys/fs/cgroup")

CONTROL_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Of cgroups in versions 2 and 1: limit, use, and where to find the cached part of the use that can go."""


def available_bytes(cgroups: Path = CGROUPS) -> int:
    """Bytes that the machine has left, or the container where that has less."""
    left = int(psutil.virtual_memory().available)
    for limit, usage, statistics, key in CONTROL_FILES:
        allowed, used = _number(cgroups / limit), _number(cgroups / usage)
        # without a limit, the file says `max`
        if allowed is not None and used is not None:
            left = min(left, allowed - used + _entry(cgroups / statistics, key))
    return max(left, 0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _entry(path: Path, key: str) -> int:
    try:
        pairs = dict(line.split() for line in path.read_text().splitlines())
        return int(pairs.get(key, 0))
    except (OSError, ValueError):
        return 0
