"""`harness policies`, and that what the documentation shows is what it prints."""

import json
import re
import shlex
from pathlib import Path

import pytest

from harness.cli import run_command

ROOT = Path(__file__).parents[3]


def documented_commands() -> list[list[str]]:
    """The command lines of `make policies`, without their output files."""
    recipe = (ROOT / "Makefile").read_text().split("\npolicies:")[1].split("\n\n")[0].replace("\\\n", " ")
    lines = re.findall(r"\$\(BIN\)/harness (policies .*)", recipe)
    return [shlex.split(re.sub(r"--out \S+", "", line)) for line in lines]


def test_the_documented_hit_rates_are_those_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    document = (ROOT / "docs" / "policies.md").read_text()
    commands = documented_commands()
    assert len(commands) == 5
    for command in commands:
        assert run_command(command) == 0
        # the table of hit rates; the second, of locality, is shown for the bundled trace alone
        printed = capsys.readouterr().out.split("\n\n")[1].splitlines()
        assert len(printed) == 2 + 2 * 3
        assert [line for line in printed if line not in document] == [], command


def test_rows_are_written_with_all_that_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "rows.json"
    command = "policies --synthetic uniform,experts=4,requests=50 --slots 2 --slots 3 --policies lru,belady"
    assert run_command([*command.split(), "--prefetch", "1", "--pin", "e000", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["schema"] == "harness-policies/1"
    shown = [(row["slots"], row["policy"], row["pinned"], row["prefetch"]) for row in content["rows"]]
    of_two = [("lru", 0, 0), ("lru", 1, 1), ("belady", 0, 0)]
    assert shown == [(slots, *rest) for slots in (2, 3) for rest in of_two]
    for row in content["rows"]:
        assert row["hit_rate"] == row["hits"] / 50
        assert row["of_belady"] == pytest.approx(row["hit_rate"] / row["belady_hit_rate"])
    assert {row["window"] for row in content["locality"]} == {1, 2, 4, 8, 16, 32}
    assert sum(content["reuse_distance"].values()) == 50 - 4
    first = out.read_bytes()
    assert run_command([*command.split(), "--prefetch", "1", "--pin", "e000", "--out", str(out)]) == 0
    assert out.read_bytes() == first
    assert "50 requests, 4 experts" in capsys.readouterr().out


def test_a_single_request_leaves_what_is_undefined_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["policies", "--synthetic", "uniform,requests=1", "--slots", "1"]) == 0
    printed = capsys.readouterr().out
    assert "switch rate undefined, reuse distance undefined" in printed
    assert "0.0%" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "Missing option '--slots'"),
        ("--slots 2", "either --trace or --synthetic"),
        ("--slots 2 --trace mixed.jsonl --synthetic uniform", "either --trace or --synthetic"),
        ("--slots 0 --synthetic uniform", "slots must be at least 1, got 0"),
        ("--slots 2 --synthetic uniform --policies mru", "one of lru, lfu, cost-aware, belady, got 'mru'"),
        ("--slots 2 --trace nowhere.jsonl", "nowhere.jsonl"),
        ("--slots 2 --synthetic uniform --queue 4", "go together"),
        ("--slots 2 --synthetic uniform --pin e000 --pin e001", "need 3 slots, got 2"),
    ],
)
def test_mistakes_are_one_line(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["policies", *options.split()]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
