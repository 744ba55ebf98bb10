"""Memory that is left is the machine's or the container's, whichever is less."""

from pathlib import Path

import psutil
import pytest

from meswitch.cuda.host_memory import available_bytes

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 100 GiB left."""
    left = psutil.virtual_memory()._replace(available=100 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: left)


def write(root: Path, **files: str) -> Path:
    for name, content in files.items():
        (root / name.replace("_", ".")).write_text(content + "\n")
    return root


def test_without_a_container_it_is_the_machines(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) == 100 * GIB
    assert available_bytes(write(tmp_path, memory_max="max", memory_current="5")) == 100 * GIB


def test_a_containers_cached_files_count_as_left(tmp_path: Path) -> None:
    stat = f"anon {GIB}\ninactive_file {3 * GIB}\nfile {4 * GIB}"
    root = write(tmp_path, memory_max=str(32 * GIB), memory_current=str(8 * GIB), memory_stat=stat)
    assert available_bytes(root) == (32 - 8 + 3) * GIB


def test_an_older_containers_limit_counts_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{16 * GIB}\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory" / "memory.stat").write_text(f"cache 7\ntotal_inactive_file {GIB}\n")
    assert available_bytes(tmp_path) == 13 * GIB


def test_a_limit_above_the_machine_changes_nothing(tmp_path: Path) -> None:
    assert available_bytes(write(tmp_path, memory_max=str(1 << 62), memory_current="0")) == 100 * GIB


def test_a_container_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    assert available_bytes(write(tmp_path, memory_max="10", memory_current="11")) == 0
