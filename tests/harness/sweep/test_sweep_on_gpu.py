"""Engines of a sweep on a GPU follow one another in one process, and each finds the device as the first one did."""

from pathlib import Path

import pytest

from harness.cli import run_command
from harness.sweep.results import SweepDirectory

MIB = 1 << 20


@pytest.mark.gpu
@pytest.mark.alone
def test_a_second_engine_finds_the_process_and_its_pinned_images_and_no_memory_of_the_first(
    small_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", "--out", str(out), "--preset", "headline", "--family", str(small_model.parent)]
    command += ["--experts", "2,4"]
    command += ["--popularity", "uniform", "--memory-budget", "4GiB", "--in-flight", "4", "--host-budget", "64MiB"]
    command += ["--arms", "meswitch,all-resident", "--prompt-tokens", "64", "--output-tokens", "8"]
    assert run_command([*command, "--seconds-per-cell", "0.5", "--no-report", "--commit", "test"]) == 0
    records = {(cell.cell.arm, cell.cell.experts): cell for cell in SweepDirectory(out).read_cells()}
    assert {cell.outcome for cell in records.values()} == {"ok"}
    first, second = records["meswitch", 2], records["meswitch", 4]
    assert {"imports", "context", "weights", "steps", "pinning", "images", "touches"} <= first.startup.keys()
    # in the same process nothing is imported again
    assert second.startup["imports"] < first.startup["imports"] / 4
    # what each later engine finds is a context and machine code, and does not grow from one to the next
    held = [records[key].gpu_at_start_bytes for key in (("meswitch", 4), ("all-resident", 2), ("all-resident", 4))]
    assert None not in held
    assert max(held) - min(held) < 256 * MIB  # type: ignore[type-var, operator]
