"""The whole command with a faked GPU: what it prints, what it keeps, and that a second run measures nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import gpu_table, run_command
from harness.prefill import PrefillCase, command
from harness.prefill.timing import PromptTimes
from harness.telemetry import NullGpu
from meswitch.cuda.memory_plan import MemoryPlan
from tests.harness.fake_gpu import FakeGpu


class FakeRig:
    """Every prompt takes 20 ms, 5 of them until all is launched."""

    def run(self, case: PrefillCase) -> PromptTimes:
        return PromptTimes(prompt_ms=20.0, host_ms=5.0, token=1)

    def products(self, tokens: int) -> Callable[[], None]:
        return lambda: None


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was built, while the GPU is a fake that takes 10 ms for the products of any prompt."""
    calls: list[tuple[Any, ...]] = []

    def build(*arguments: Any) -> FakeRig:
        calls.append(arguments)
        return FakeRig()

    plan = MemoryPlan(
        budget_bytes=80 << 30, context_bytes=0, base_bytes=1 << 30, slots=1, slot_bytes=1, kv_bytes=1, workspace_bytes=1
    )
    for name, value in {
        "take_device": lambda gpu, *, index, dtype: torch.device("cuda", index),
        "plan_prefill": lambda *_: plan,
        "time_block": lambda launch, count: 10.0 * count,
        "build_prefill": build,
    }.items():
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: FakeGpu())
    return calls


def test_rows_and_plan_are_printed_and_a_second_run_measures_nothing(
    built: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "prefill.json"
    line = ["prefill", "--family", "mistral-7b", "--tokens", "16,512", "--start", "8", "--single", "--seed", "7"]
    line += ["--table", str(table), "--commit", "abc"]
    assert run_command(line) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "memory budget 80.00 GiB"
    assert printed[-9] == "Fake GPU"
    assert printed[-8].startswith("  512 tokens from     8  graphs  expert   20.000 ms [20.000, 20.000]")
    rows = json.loads(table.read_text())
    assert [(row["tokens"], row["launches"]) for row in rows] == [
        (tokens, launches) for tokens in (512, 16) for launches in ("graphs", "graphs", "single", "single")
    ]
    assert {(row["start"], row["prompt_ms"], row["ratio_to_base_products"]) for row in rows} == {(8, 20, 2)}
    record = json.loads((tmp_path / "prefill.raw.jsonl").read_text().splitlines()[0])
    assert record["provenance"]["gpu"] == "Fake GPU"
    assert record["provenance"]["git"]["commit"] == "abc"
    assert record["options"]["synthetic"]["seed"] == 7
    assert record["options"]["chunk_tokens"] == 512
    assert record["gpu_state_before"]["sm_clock_mhz"] == 1980
    assert len(built) == 1
    assert run_command(line) == 0
    assert capsys.readouterr().out == f"all rows are in {table}\n"
    assert len(built) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "0"], "--tokens must be lengths from 1 on"),
        (["--tokens", "512", "--start", "4000"], "--start and --tokens together must be at most the sliding window"),
        (["--codec", "lowrank"], "on CUDA a codec of linear must be one of"),
        (["--family", "giant"], "unknown shape 'giant'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_built(
    arguments: list[str], message: str, built: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["prefill", "--family", "mistral-7b", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not built


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--dtype", "float16"], "dtype bfloat16 there and float16 here"),
        (["--head", "rtn:bits=2"], "head rtn:bits=4"),
        (["--repeats", "5"], "repeats 9 there and 5 here"),
        (["--seed", "1"], "seed 0 there and 1 here"),
    ],
)
def test_a_row_of_another_configuration_is_refused_before_anything_is_built(
    changed: list[str], message: str, built: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["prefill", "--family", "mistral-7b", "--tokens", "16", "--table", str(tmp_path / "prefill.json")]
    assert run_command(line) == 0
    kept = (tmp_path / "prefill.json").read_bytes()
    capsys.readouterr()
    assert run_command([*line, *changed]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith("give another file to --table\n")
    assert len(built) == 1
    assert (tmp_path / "prefill.json").read_bytes() == kept


def test_a_row_of_another_card_is_refused(
    built: list[tuple[Any, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ["prefill", "--family", "mistral-7b", "--tokens", "16", "--table", str(tmp_path / "prefill.json")]
    assert run_command(line) == 0
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: NullGpu("Another GPU"))
    assert run_command(line) == 1
    assert "GPU Fake GPU there and Another GPU here" in capsys.readouterr().err
