"""`harness trace` from the command line: what it prints, what it writes, what it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.trace import trace_app
from harness.errors import UsageError
from workloads.errors import TraceFormatError, WorkloadError
from workloads.trace_io import read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.0,10,2\r\n2023-11-16 18:17:04.5,20,4\r\n"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(trace_app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refuse(kind: type[Exception], *arguments: object) -> str:
    result = CliRunner().invoke(trace_app, [str(a) for a in arguments])
    assert isinstance(result.exception, kind), result.output
    message = str(result.exception)
    assert "\n" not in message
    return message


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    path = tmp_path / "azure.csv"
    path.write_bytes(AZURE.encode())
    return path


def test_generate_then_validate_then_info(tmp_path: Path) -> None:
    out = tmp_path / "small.jsonl"
    assert "20 requests" in run("generate", "small", "--requests", 20, "--out", out)
    assert "valid, 20 requests" in run("validate", out)
    report = json.loads(run("info", out, "--json"))
    assert report["header"]["name"] == "small"
    assert report["profile"]["requests"] == 20
    assert report["sha256"] == read_trace(out).sha256
    text = run("info", out)
    for label in ("rate", "gap CV", "dispersion", "switch rate", "working set", "reuse distance", "prompt"):
        assert label in text


def test_generate_writes_where_the_user_is_under_the_traces_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("generate", "mine", "--requests", 5, "--arrivals", "gamma:2", "--popularity", "uniform", "--seed", 0)
    header = read_trace(tmp_path / "mine.jsonl").header
    assert header.generator is not None
    assert header.generator["arrivals"] == "gamma:2"
    assert header.seed == 0


def test_the_bundled_trace_is_what_the_bare_command_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes a task must make the bundled trace anew: `workloads/README.md` says how."""
    monkeypatch.chdir(tmp_path)
    bundled = run("validate", "mixed.jsonl").split()[-1]
    assert run("generate", "mixed", "--out", tmp_path / "again.jsonl").split()[-1] == bundled


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    out.write_text("mine", encoding="utf-8")
    assert "give --force to replace it" in refuse(UsageError, "generate", "--requests", 5, "--out", out)
    assert out.read_text(encoding="utf-8") == "mine"
    run("generate", "--requests", 5, "--out", out, "--force")
    assert len(read_trace(out).requests) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--requests", 0], "requests must be at least 1, got 0"),
        (["--arrivals", "bursty"], "arrivals must be constant, poisson or gamma:CV, got 'bursty'"),
        (["--popularity", "zipf"], "popularity must be uniform, zipf:S, distinct or identical, got 'zipf'"),
        (["--rate", 0], "rate_per_s must be positive and finite, got 0.0"),
        (["--tasks", ","], "at least one task"),
    ],
)
def test_a_value_that_makes_no_trace_is_one_line_and_no_file(
    tmp_path: Path, options: list[object], message: str
) -> None:
    out = tmp_path / "t.jsonl"
    assert message in refuse(UsageError, "generate", *options, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_is_one_line_and_no_file(tmp_path: Path) -> None:
    assert "unknown task 'alchemy'" in refuse(
        WorkloadError, "generate", "--tasks", "alchemy", "--out", tmp_path / "t.jsonl"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_trace_is_one_line() -> None:
    assert "nowhere.jsonl is no file" in refuse(TraceFormatError, "info", "nowhere.jsonl")


def test_import_composes_experts_and_says_so_in_the_header(tmp_path: Path, azure: Path) -> None:
    out = tmp_path / "t.jsonl"
    told = run("import", azure, "--format", "azure", "--assign-experts", "zipf:1.1", "--experts", "a,b", "--out", out)
    assert "experts composed" in told
    trace = read_trace(out)
    assert trace.header.assignment is not None
    assert trace.header.assignment.startswith("experts composed, the source names none: zipf:1.1 over a, b")
    assert [(r.t_ms, r.input_length, r.output_length) for r in trace.requests] == [(0.0, 10, 2), (1500.0, 20, 4)]
    assert all(r.prompt is None and r.expert in ("a", "b") for r in trace.requests)
    assert trace.header.sha256_of_source is not None


def test_sharegpt_needs_arrivals(azure: Path) -> None:
    assert "ShareGPT has no times" in refuse(UsageError, "import", azure, "--format", "sharegpt")


def test_arrivals_and_rate_go_together(azure: Path) -> None:
    assert "--arrivals and --rate go together" in refuse(UsageError, "import", azure, "--format", "azure", "--rate", 2)


def test_a_malformed_source_is_one_line_and_no_file(tmp_path: Path, azure: Path) -> None:
    azure.write_text(AZURE.replace("20,4", "20,x"), encoding="utf-8")
    out = tmp_path / "t.jsonl"
    assert "azure.csv, line 3, field GeneratedTokens" in refuse(
        TraceFormatError, "import", azure, "--format", "azure", "--out", out
    )
    assert not out.exists()
