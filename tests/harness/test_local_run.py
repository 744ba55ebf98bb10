"""The whole way, with real engines: a tiny untrained family, two experts, both arms, each in its own process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.aggregation import summarise
from harness.records import read_records
from harness.summary import dump_summary
from workloads.trace import TraceHeader, TraceRequest
from workloads.trace_io import write_trace

EXPERTS = ("arithmetic", "reverse")
N = 12
# experts, arms: cells of each
CELLS = {("meswitch", 1), ("meswitch", 2), ("full-swap-disk", 1), ("full-swap-disk", 2), ("all-resident", 1)}

RUN = """
import sys
from harness.cli import run_command
code = run_command(sys.argv[1:])
# the client measures; torch would load and compute beside it
assert "torch" not in sys.modules
sys.exit(code)
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Path:
    import torch

    from meswitch.families.pocket.model import new_model, pocket_config
    from meswitch.families.pocket.packaging import package_family

    config = pocket_config(hidden=96, layers=1, intermediate=96)
    base = {name: value.float() for name, value in new_model(config, 0).state_dict().items()}

    def moved(seed):
        generator = torch.Generator().manual_seed(seed)
        return {
            name: value + 0.1 * value.std() * torch.randn(value.shape, generator=generator) if value.ndim > 1 else value
            for name, value in base.items()
        }

    root = tmp_path_factory.mktemp("family") / "tiny"
    stages = [("base", base), *((name, moved(i)) for i, name in enumerate(EXPERTS, 1)), ("router", moved(9))]
    package_family(config, stages, root)
    return root


@pytest.fixture
def trace_path(tmp_path) -> Path:
    path = tmp_path / "tiny.jsonl"
    requests = [
        TraceRequest(
            id=f"r{i}",
            t_ms=100 * i,
            prompt=f"prompt {i}",
            expert=EXPERTS[i % 2],
            output_length=4,
            answer="x",
            verifier="exact",
        )
        for i in range(N)
    ]
    write_trace(path, TraceHeader(name="tiny"), requests)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("router", ["tag", "llm"])
def test_both_arms_answer_every_request_of_a_trace(family, trace_path, tmp_path, monkeypatch, router):
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "home"))
    arguments = ["run", "--trace", str(trace_path), "--family", str(family), "--router", router]
    arguments += ["--runs-dir", str(tmp_path / "runs"), "--json"]
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    # 2 would only say that this machine was too busy to measure on
    assert done.returncode in (0, 2), done.stderr
    summary = json.loads(done.stdout)
    assert not [reason for reason in summary["reasons"] if "overloaded" not in reason and "delivered" not in reason]
    for arm in ("meswitch", "full-swap-disk"):
        figures = summary["arms"][arm]
        assert figures["requests"]["ok"] == N
        assert figures["weight_bytes"]["total"] <= figures["budget_bytes"]
        assert (figures["router_accuracy"] is None) == (router == "tag")
    assert summary["arms"]["meswitch"]["weight_bytes"]["base"] > 0
    assert summary["arms"]["full-swap-disk"]["weight_bytes"]["experts"] > 0
    run = next((tmp_path / "runs").iterdir())
    assert dump_summary(summarise(run)) == (run / "summary.json").read_bytes()
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_trace_of_lengths_alone_is_replayed_with_drawn_tokens(family, tmp_path, monkeypatch):
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "home"))
    path = tmp_path / "lengths.jsonl"
    requests = [
        TraceRequest(id=f"r{i}", t_ms=100 * i, input_length=5 + i, output_length=3 + i % 2, expert=EXPERTS[i % 2])
        for i in range(N)
    ]
    write_trace(path, TraceHeader(name="lengths"), requests)
    arguments = ["run", "--trace", str(path), "--family", str(family), "--arms", "meswitch", "--repeats", "2"]
    arguments += ["--runs-dir", str(tmp_path / "runs"), "--no-report", "--policy", "lfu", "--pin", EXPERTS[0]]
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr
    records = read_records(next((tmp_path / "runs").iterdir()) / "requests.jsonl")
    assert {r.outcome for r in records} == {"ok"}
    assert [(r.repeat, r.input_tokens, r.output_tokens) for r in records] == [
        (repeat, 5 + i, 3 + i % 2) for repeat in range(2) for i in range(N)
    ]
    assert {r.correct for r in records} == {None}


@pytest.mark.slow
def test_a_sweep_measures_every_cell_and_says_what_does_not_fit(family, tmp_path, monkeypatch):
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "home"))
    out = tmp_path / "sweep"
    arguments = ["sweep", "--out", str(out), "--preset", "pocket", "--family", str(family), "--experts", "1,2"]
    arguments += ["--popularity", "distinct", "--in-flight", "2", "--memory-budget", "500KiB"]
    arguments += ["--seconds-per-cell", "1", "--warm-up", "0.1", "--prompt-tokens", "8", "--output-tokens", "3"]
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "sweep.json").read_text())
    assert {(row["arm"], row["experts"]) for row in rows if row["outcome"] == "ok"} == CELLS
    assert {(row["arm"], row["experts"]) for row in rows if row["outcome"] == "does-not-fit"} == {("all-resident", 2)}
    assert all(row["output_tokens_per_s"] > 0 for row in rows if row["outcome"] == "ok")
    swap = next(row for row in rows if (row["arm"], row["experts"]) == ("full-swap-disk", 2))
    assert swap["hit_rate"] < 1
    assert (out / "report.html").stat().st_size > 10_000
