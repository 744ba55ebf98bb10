"""The command line: exit codes, one-line errors, nothing left behind."""

import json

import pytest
import typer

from harness import planning
from harness.cli import app, run_command
from harness.cli.run import exit_code
from harness.clock import FakeClock
from harness.drivers.fake import FakeDriver, FakePlan
from harness.errors import UsageError
from harness.results import Manifest
from harness.run import ArmPlan, RunPlan
from harness.schedule import build_schedule
from harness.summary import read_summary
from harness.telemetry import NullGpu
from workloads.trace import Slo, TraceRequest
from workloads.trace_io import write_trace

MS = 1_000_000


@pytest.fixture
def planned(monkeypatch, make_trace, make_stats):
    """Make `harness run` meet fake systems on a fake clock; returns what each arm's driver can be changed to."""
    clock = FakeClock()
    requests = [
        TraceRequest(
            id=f"r{i}",
            t_ms=10 * i,
            prompt="p",
            expert="a",
            answer="ok",
            verifier="exact",
            slo=Slo(ttft_ms=20 if i % 2 else 5),
        )
        for i in range(40)
    ]
    options = {"plan": lambda request: FakePlan(expert="a"), "busy_ns": 0}

    def plan_run(asked, *, gpu, report):
        arms = [
            ArmPlan(
                name=name,
                description="fake",
                page_cache="none",
                config={},
                make_driver=lambda: FakeDriver(
                    options["plan"], clock, busy_ns=options["busy_ns"], stats=make_stats(base=2**20)
                ),
            )
            for name in (asked.arms or "meswitch,full-swap-disk").split(",")
        ]
        manifest = Manifest(
            run_id="the-run",
            created="now",
            status="partial",
            command=("harness", "run"),
            provenance={"gpu": "no GPU"},
            config={},
            trace={"name": "made", "requests": 40, "duration_s": 0.39},
            family={"name": "fake", "experts": 1, "model_bytes": 2**20},
        )
        schedule = build_schedule(make_trace(requests), router="tag", experts=("a",))
        return RunPlan(manifest=manifest, schedule=schedule, arms=arms, warm_up=0)

    monkeypatch.setattr(planning, "plan_run", plan_run)
    monkeypatch.setattr("harness.cli.run.MonotonicClock", lambda: clock)
    return options


def harness_run(tmp_path, *more):
    return run_command(["run", "--trace", "x", "--runs-dir", str(tmp_path), "--no-report", *more])


def test_a_valid_run_ends_with_0_and_shows_the_answer_first(planned, tmp_path, capsys):
    assert harness_run(tmp_path) == 0
    shown = capsys.readouterr().out
    # both arms are the same fake system
    assert "1 expert in 1.00 MiB\n" in shown
    assert "no significant difference in time to first token\n" in shown
    assert "no significant difference in right answers\n" in shown
    assert "faster" not in shown
    assert "slower" not in shown
    assert "valid" in shown
    assert str(tmp_path / "the-run") in shown.replace("\n", "")


NO_GPU = "harness: device cuda needs an NVIDIA GPU and its driver, and NVML sees none; check nvidia-smi\n"


def test_without_a_gpu_a_run_on_one_is_one_line_before_the_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.cli.run.open_gpu", NullGpu)
    monkeypatch.setattr(planning, "plan_run", lambda *given, **options: pytest.fail("a plan was made"))
    assert harness_run(tmp_path, "--device", "cuda") == 1
    assert capsys.readouterr().err == NO_GPU


def test_without_a_gpu_parity_answers_nothing_on_the_cpu(capsys, monkeypatch):
    monkeypatch.setattr("harness.cli.parity.open_gpu", NullGpu)
    monkeypatch.setattr("harness.cli.parity.prepare", lambda request: pytest.fail("a family was made ready"))
    assert run_command(["parity", "pocket"]) == 1
    assert capsys.readouterr().err == NO_GPU


def test_an_engine_that_cannot_start_leaves_no_empty_line(planned, tmp_path, capsys, monkeypatch):
    def refuse(*given, **options):
        raise UsageError("no")

    monkeypatch.setattr("harness.cli.run.execute", refuse)
    assert harness_run(tmp_path) == 1
    assert capsys.readouterr().err == "harness: no\n"


def test_json_prints_the_summary_and_nothing_else(planned, tmp_path, capsys):
    assert harness_run(tmp_path, "--json") == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "the-run" / "summary.json").read_text()
    summary = json.loads(printed)
    assert summary["valid"] is True
    assert summary["reasons"] == []
    assert summary["arms"]["meswitch"]["ttft_s"]["p50"]["value"] == pytest.approx(0.010)


def test_an_overloaded_client_ends_with_2(planned, tmp_path, capsys):
    planned["busy_ns"] = 60 * MS
    assert harness_run(tmp_path) == 2
    shown = capsys.readouterr().out
    assert "INVALID" in shown
    assert "No answer: this run is not valid" in shown
    assert "no significant difference" not in shown
    assert "the client was overloaded" in shown


def test_a_missed_slo_ends_with_3_only_if_it_is_required(planned, tmp_path):
    # 10 ms to the first token; every other request allows 5
    assert harness_run(tmp_path, "--require-slo", "0.51") == 3
    assert exit_code(summary_of(tmp_path), interrupted=False, require_slo=0.5) == 0


def summary_of(tmp_path):
    return read_summary(tmp_path / "the-run" / "summary.json")


def test_an_interruption_ends_with_130_and_leaves_a_readable_partial_run(planned, tmp_path, monkeypatch):
    polls = []

    def poll(self, timeout_s):
        polls.append(timeout_s)
        if len(polls) > 30:
            raise KeyboardInterrupt
        return original(self, timeout_s)

    original = FakeDriver.poll
    monkeypatch.setattr(FakeDriver, "poll", poll)
    assert harness_run(tmp_path, "--arms", "meswitch") == 130
    summary = summary_of(tmp_path)
    assert summary.partial
    assert summary.arms["meswitch"].requests.ok > 0
    assert run_command(["report", "the-run", "--runs-dir", str(tmp_path), "--json"]) == 0


def test_an_interruption_before_anything_runs_says_that_nothing_is_kept(tmp_path, monkeypatch, capsys):
    def plan_run(asked, *, gpu, report):
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "plan_run", plan_run)
    assert harness_run(tmp_path / "runs") == 130
    captured = capsys.readouterr()
    assert captured.err == "interrupted before the first answer; nothing is kept\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pocket", "--codec", "rtn:bits=2", "--codec", "foo"], "harness: no codec is called 'foo'"),
        (["nofam"], "harness: unknown family 'nofam'"),
    ],
)
def test_quality_refuses_names_before_anything_is_shown_or_made(arguments, message, tmp_path, capsys):
    output = tmp_path / "quality"
    assert run_command(["quality", *arguments, "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert (captured.out, captured.err.count("\n"), output.exists()) == ("", 1, False)


def test_an_interrupted_evaluation_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def evaluate(options, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.cli.quality.evaluate", evaluate)
    assert run_command(["quality", "pocket", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith("harness: interrupted; the same command goes on where it stopped\n")


def test_report_rebuilds_the_same_summary(planned, tmp_path, capsys):
    harness_run(tmp_path)
    path = tmp_path / "the-run" / "summary.json"
    first = path.read_bytes()
    path.unlink()
    capsys.readouterr()
    assert run_command(["report", "latest", "--runs-dir", str(tmp_path), "--json"]) == 0
    assert path.read_bytes() == first
    assert (tmp_path / "the-run" / "report.html").exists()


@pytest.fixture
def trace_file(tmp_path, make_trace):
    made = make_trace([TraceRequest(id="r0", t_ms=0, prompt="p", expert="a")])
    path = tmp_path / "made.jsonl"
    write_trace(path, made.header, made.requests)
    return path


@pytest.fixture
def nameless_trace(tmp_path, make_trace):
    """A trace that names no expert, which any family serves."""
    made = make_trace([TraceRequest(id="r0", t_ms=0, prompt="p")])
    path = tmp_path / "nameless.jsonl"
    write_trace(path, made.header, made.requests)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trace", "missing.jsonl"], "missing.jsonl"),
        (["--trace", "TRACE", "--arms", "magic"], "no arm is called 'magic'; there are meswitch, full-swap-disk"),
        (["--trace", "TRACE", "--arms", "meswitch,meswitch"], "--arms must name each arm once"),
        (["--trace", "TRACE", "--router", "dice"], "--router must be tag or llm, got 'dice'"),
        (["--trace", "TRACE", "--memory-budget", "much"], "a size must look like 32MiB or 1.5GiB, got 'much'"),
        (["--trace", "TRACE", "--family", "no-family"], "unknown family 'no-family'"),
        (["--trace", "TRACE", "--require-slo", "2"], "--require-slo must be between 0 and 1, got 2.0"),
        (["--trace", "TRACE", "--threads", "0"], "--threads at least 1"),
        (["--trace", "TRACE", "--bogus"], "No such option"),
        (["--trace", "PLAIN", "--pin", "VELM,foo"], "--pin names foo, which no engine serves; there are base, "),
        ([], "Missing option '--trace'"),
    ],
)
def test_a_users_mistake_is_one_line_and_ends_with_1(
    arguments, message, trace_file, nameless_trace, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("harness.planning.prepare", lambda *_, **__: pytest.fail("checkpoints are made ready"))
    runs = tmp_path / "runs"
    files = {"TRACE": str(trace_file), "PLAIN": str(nameless_trace)}
    given = [files.get(word, word) for word in arguments]
    assert run_command(["run", "--runs-dir", str(runs), *given]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("harness: ")
    assert error.count("\n") == 1
    assert not runs.exists()


def test_a_malformed_trace_is_named_by_line_and_field(trace_file, tmp_path, capsys):
    trace_file.write_text(trace_file.read_text().replace('"t":0', '"t":"soon"'))
    assert run_command(["run", "--trace", str(trace_file), "--runs-dir", str(tmp_path / "runs")]) == 1
    error = capsys.readouterr().err
    assert "line 2, field t" in error
    assert not (tmp_path / "runs").exists()


def test_without_arguments_the_help_is_shown(capsys):
    assert run_command([]) == 1
    assert "Usage" in capsys.readouterr().out


def test_the_environment_is_printed_as_json(capsys):
    assert run_command(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["python"]


@pytest.mark.parametrize(
    "command", ["run", "sweep", "switching", "quality", "decode", "prefill", "memory", "parity", "report"]
)
def test_an_option_means_the_same_in_every_command(command):
    parameters = typer.main.get_command(app).commands[command].params
    kinds = {name: parameter for parameter in parameters for name in parameter.opts}
    # a device is a kind of machine, and --gpu the index of one; --json prints, and rows are kept at --table
    assert ("--device" in kinds) == (command in ("run", "sweep", "switching", "quality"))
    assert "--json" not in kinds or kinds["--json"].is_flag
    assert ("--gpu" in kinds) == (command in ("decode", "prefill", "memory"))
    assert ("--table" in kinds) == (command in ("decode", "prefill", "memory", "parity"))
