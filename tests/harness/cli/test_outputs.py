"""What a command writes has a place before minutes of work, or is refused in one line and nothing is made."""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cli import run_command
from harness.engines import EngineOptions
from tests.harness.fake_gpu import FakeGpu

SHAPE = ["--family", "mistral-7b"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU for whoever asks: no command is refused for want of one."""
    for name in ("cli.gpu_table", "cli.parity", "cli.run", "cli.sweep", "cli.switching", "telemetry.gpu"):
        monkeypatch.setattr(import_module(f"harness.{name}"), "open_gpu", lambda index=0: FakeGpu())


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["compression", *SHAPE, "--layers", "1"], "--table"),
        (["decode", *SHAPE], "--table"),
        (["decode", *SHAPE], "--profile"),
        (["memory", *SHAPE], "--table"),
        (["parity"], "--table"),
        (["policies", "--trace", "mixed.jsonl", "--slots", "2"], "--out"),
        (["prefill", *SHAPE], "--table"),
    ],
)
def test_a_file_that_cannot_be_kept_is_refused_in_one_line(
    command: list[str], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for place, why in (
        (tmp_path / "file" / "t.json", f"in a directory that can be written to, and {tmp_path / 'file'} is not"),
        (tmp_path, f"a file, and {tmp_path} is a directory"),
    ):
        assert run_command([*command, option, str(place)]) == 1
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", f"harness: {option} must be {why}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["grid", "base"], "--output"),
        (["quality", "pocket"], "--output"),
        (["quality", "smollm2"], "--output"),
        (["run", "--trace", "mixed.jsonl"], "--runs-dir"),
        (["sweep"], "--out"),
        (["switching"], "--out"),
    ],
)
def test_a_directory_that_is_a_file_is_refused_in_one_line(
    command: list[str], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "file"
    place.touch()
    assert run_command([*command, option, str(place)]) == 1
    printed = capsys.readouterr()
    refused = f"harness: {option} must be a directory that can be written to, and {place} is not\n"
    assert (printed.out, printed.err) == ("", refused)
    assert place.read_bytes() == b""


@pytest.mark.usefixtures("gpu")
def test_parity_asks_the_gpu_first_and_makes_the_directory_of_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, str]] = []

    def answer(options: EngineOptions, requests: Sequence[str]) -> dict[str, tuple[int, ...]]:
        asked.append((options.device, options.dtype))
        return {name: (1, 2) for name in requests}

    command = import_module("harness.cli.parity")
    for name, value in {
        "prepare": lambda request: SimpleNamespace(family="f", codec="c"),
        "parity_requests": lambda prepared, **_: ["a/0", "b/0"],
        "default_budget": lambda prepared, options: 1,
        "engine_config": lambda arm, prepared, options, budget: options,
        "answer_all": answer,
    }.items():
        monkeypatch.setattr(command, name, value)
    table = tmp_path / "new" / "deep" / "parity.json"
    assert run_command(["parity", "--table", str(table)]) == 0
    assert asked == [("cuda", "float32"), ("cuda", "bfloat16"), ("cpu", "float32")]
    rows: list[dict[str, Any]] = json.loads(table.read_text())
    assert [(row["expert"], row["dtype"], row["equal_requests"]) for row in rows] == [
        (expert, dtype, 1) for dtype in ("float32", "bfloat16") for expert in ("a", "b")
    ]
    record = json.loads(table.with_suffix(".raw.json").read_text())
    assert list(record["answers"]) == ["cpu", "float32", "bfloat16"]
