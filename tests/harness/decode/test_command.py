"""The whole command with a faked GPU: what it prints, what it keeps, and that a second run measures nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import gpu_table, run_command
from harness.decode import DecodeCase, command
from harness.telemetry import NullGpu
from meswitch.cuda.memory_plan import MemoryPlan
from tests.harness.fake_gpu import FakeGpu

PUBLISHED = Path(__file__).parents[3] / "reports" / "results" / "h100-80gb"


class FakeRig:
    """Steps that do nothing."""

    def load(self, case: DecodeCase, *, steps: int) -> Callable[[], None]:
        return lambda: None


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was built, while the GPU is a fake that reads 2 TB/s and takes 20 ms for each step."""
    calls: list[tuple[Any, ...]] = []

    def build(*arguments: Any) -> FakeRig:
        calls.append(arguments)
        return FakeRig()

    plan = MemoryPlan(
        budget_bytes=80 << 30, context_bytes=0, base_bytes=1 << 30, slots=2, slot_bytes=1, kv_bytes=1, workspace_bytes=1
    )
    for name, value in {
        "take_device": lambda gpu, *, index, dtype: torch.device("cuda", index),
        "plan_decode": lambda *_: plan,
        "read_bandwidth": lambda: 2e12,
        "time_block": lambda launch, count: 20.0 * count,
        "build_decode": build,
    }.items():
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: FakeGpu())
    return calls


def test_rows_plan_and_floor_are_printed_and_a_second_run_measures_nothing(
    built: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "decode.json"
    line = [
        "decode",
        "--family",
        "mistral-7b",
        "--cases",
        "2x2",
        "--seed",
        "7",
        "--table",
        str(table),
        "--commit",
        "abc",
    ]
    assert run_command(line) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "memory budget 80.00 GiB"
    # two whole models of 14.22 GB, with 67 MB of keys and values for each row
    assert "Fake GPU: read bandwidth 2.000 TB/s; 2 rows of 2 whole models would take at least 14.3 ms" in printed[-3]
    assert printed[-2].startswith("B   2 E   2 context   512   20.000 ms [20.000, 20.000]")
    rows = json.loads(table.read_text())
    assert [(row["E"], row["step_ms"], row["base_only_ms"]) for row in rows] == [(2, 20, 20), (0, 20, 20)]
    record = json.loads((tmp_path / "decode.raw.jsonl").read_text())
    assert record["provenance"]["gpu"] == "Fake GPU"
    assert record["provenance"]["git"]["commit"]
    assert record["options"]["synthetic"]["seed"] == 7
    assert record["gpu_state_before"]["sm_clock_mhz"] == 1980
    assert len(built) == 1
    assert run_command(line) == 0
    assert capsys.readouterr().out == f"all rows are in {table}\n"
    assert len(built) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "2x3"], "no more experts than rows"),
        (["--context", "4090"], "at most the sliding window of mistral-7b, 4096, got 4110"),
        (["--codec", "lowrank"], "on CUDA a codec of linear must be one of"),
        (["--codec", "salient:bits=5"], "bits"),
        (["--family", "giant"], "unknown shape 'giant'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_built(
    arguments: list[str], message: str, built: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["decode", "--family", "mistral-7b", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not built


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--dtype", "float16"], "dtype bfloat16 there and float16 here"),
        (["--embedding", "rtn:bits=2"], "embedding rtn:bits=4"),
        (["--head", "rtn:bits=2"], "head rtn:bits=4"),
        (["--repeats", "5"], "repeats 9 there and 5 here"),
        (["--seed", "1"], "seed 0 there and 1 here"),
    ],
)
def test_a_row_of_another_configuration_is_refused_before_anything_is_built(
    changed: list[str], message: str, built: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["decode", "--family", "mistral-7b", "--cases", "2x2", "--table", str(tmp_path / "decode.json")]
    assert run_command(line) == 0
    kept = (tmp_path / "decode.json").read_bytes()
    capsys.readouterr()
    assert run_command([*line, *changed]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert f"{tmp_path / 'decode.json'} has a row of family mistral-7b" in error
    assert error.endswith("give another file to --table\n")
    assert error.count("\n") == 1
    assert len(built) == 1
    assert (tmp_path / "decode.json").read_bytes() == kept


def test_a_row_of_another_card_is_refused_and_the_steps_of_the_base_are_of_any_tables(
    built: list[tuple[Any, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ["decode", "--family", "mistral-7b", "--table", str(tmp_path / "decode.json")]
    assert run_command([*line, "--cases", "2x0"]) == 0
    assert run_command([*line, "--cases", "2x0", "--embedding", "rtn:bits=2"]) == 0
    assert len(built) == 1
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: NullGpu("Another GPU"))
    capsys.readouterr()
    assert run_command([*line, "--cases", "2x0"]) == 1
    assert "GPU Fake GPU there and Another GPU here" in capsys.readouterr().err


def test_the_published_rows_are_complete_with_the_options_they_were_made_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("decode.json", "decode.raw.jsonl"):
        shutil.copy(PUBLISHED / name, tmp_path / name)
    table = tmp_path / "decode.json"
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: NullGpu("NVIDIA H100 80GB HBM3"))
    line = ["decode", "--family", "mistral-7b", "--table", str(table)]
    assert run_command(line) == 0
    assert capsys.readouterr().out == f"all rows are in {table}\n"
    assert table.read_bytes() == (PUBLISHED / "decode.json").read_bytes()
    assert run_command([*line, "--dtype", "float16"]) == 1
    assert "dtype bfloat16 there and float16 here" in capsys.readouterr().err
