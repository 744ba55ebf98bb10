"""`harness decode`, `prefill` and `memory` on a GPU, with a model that is small enough to be made at once."""

import json
from pathlib import Path

import pytest

from harness.cli import run_command

# of `small_model`, in numbers: embedding and head, and four layers
WEIGHTS = 2 * 4096 * 1024 + 4 * (1024 * 1536 + 1024 * 1024 + 3 * 2048 * 1024)


@pytest.mark.gpu
def test_decode_steps_take_at_least_as_long_as_their_bytes_and_resume(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "decode.json"
    command = ["decode", "--family", str(small_model), "--cases", "4x4,4x1", "--context", "64", "--table", str(table)]
    assert run_command(command) == 0
    rows = json.loads(table.read_text())
    assert [(row["B"], row["E"]) for row in rows] == [(4, 4), (4, 1), (4, 0)]
    for row in rows:
        assert row["step_ms_low"] <= row["step_ms"] <= row["step_ms_high"]
        assert row["ratio_to_floor"] > 1
        assert row["base_only_ms"] == rows[2]["step_ms"]
    record = json.loads((tmp_path / "decode.raw.jsonl").read_text())
    assert record["gpu_state_after"]["sm_clock_mhz"] > 0
    assert len(record["cases"][0]["step_ms"]) == 9
    capsys.readouterr()
    assert run_command(command) == 0
    assert "all rows are in" in capsys.readouterr().out
    assert json.loads(table.read_text()) == rows


@pytest.mark.gpu
def test_prompts_by_graphs_and_launched_by_themselves_choose_the_same_token_and_resume(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "prefill.json"
    command = ["prefill", "--family", str(small_model), "--tokens", "16,100", "--start", "3", "--single"]
    command += ["--table", str(table)]
    assert run_command(command) == 0
    rows = json.loads(table.read_text())
    assert len(rows) == 8
    for row in rows:
        assert row["prompt_ms_low"] <= row["prompt_ms"] <= row["prompt_ms_high"]
        assert 0 < row["host_ms"] <= row["prompt_ms"]
        assert row["ratio_to_base_products"] > 1
    for line in (tmp_path / "prefill.raw.jsonl").read_text().splitlines():
        cases = json.loads(line)["cases"]
        for has_expert in (True, False):
            tokens = [case["first_tokens"] for case in cases if (case["codec"] is not None) == has_expert]
            # greedy, and of the same kernels: every repeat of both ways
            assert len({token for repeats in tokens for token in repeats}) == 1
            assert tokens[0][0] >= 0
    capsys.readouterr()
    assert run_command(command) == 0
    assert "all rows are in" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.alone
def test_the_drivers_count_lies_between_what_is_held_and_what_was_planned(small_model: Path, tmp_path: Path) -> None:
    table = tmp_path / "memory.json"
    command = ["memory", "--family", str(small_model), "--experts", "3", "--memory-budget", "3GiB"]
    command += ["--kv-tokens", "1024"]
    assert run_command([*command, "--max-rows", "4", "--table", str(table)]) == 0
    (row,) = json.loads(table.read_text())
    assert row["experts"] == 3
    # what libraries and graphs take is planned at most; PyTorch takes memory in pieces of up to 20 MiB
    assert 2 * WEIGHTS < row["nvml_bytes"] < row["planned_bytes"] + (64 << 20)


@pytest.mark.gpu
def test_a_budget_beyond_the_card_is_one_line(small_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["memory", "--family", str(small_model), "--memory-budget", "9000GiB"]) == 1
    assert "must be at most what" in capsys.readouterr().err
    assert run_command(["memory", "--family", str(small_model), "--memory-budget", "100MiB"]) == 1
    assert "raise the budget" in capsys.readouterr().err
