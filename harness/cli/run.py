"""`harness run`: one trace, several arms, one answer."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness import planning
from harness.aggregation import rebuild_summary
from harness.arms import ARMS, MODIFIERS
from harness.cli import engine_flags
from harness.cli.table import print_summary
from harness.clock import MonotonicClock
from harness.errors import UsageError
from harness.planning import RunOptions
from harness.records import RequestRecord
from harness.results import RunDirectory, check_runs_dir
from harness.run import Progress as RunProgress
from harness.run import execute
from harness.summary import Summary
from harness.telemetry import check_gpu, open_gpu
from meswitch.cuda.memory_plan import MemoryPlan

__all__ = ["exit_code", "run"]

OK, INVALID, SLO_MISSED, INTERRUPTED = 0, 2, 3, 130

DEFAULTS = RunOptions(trace="")


def run(
    trace: Annotated[str, typer.Option(help="A trace file, or the bare name of a bundled one.")],
    arms: Annotated[
        str | None,
        typer.Option(
            help=f"Systems to compare, in order of running: {', '.join(ARMS)}; each with +{' +'.join(MODIFIERS)}."
        ),
    ] = DEFAULTS.arms,
    family: Annotated[
        str, typer.Option(help="A model family, by name or path; or a shape, such as mistral-7b.")
    ] = DEFAULTS.family,
    experts: Annotated[
        str, typer.Option(help="trace: those that the trace asks for; all; or names with commas.")
    ] = DEFAULTS.experts,
    codec: engine_flags.Codec = DEFAULTS.codec,
    router: Annotated[
        str | None,
        typer.Option(help="llm lets the router choose, where it could; tag takes the trace's expert."),
    ] = DEFAULTS.router,
    memory_budget: Annotated[
        str | None, typer.Option(help="What an arm may take: all weights on a CPU, everything on a GPU.")
    ] = None,
    rate_scale: Annotated[float, typer.Option(help="Replay so many times as fast.")] = DEFAULTS.rate_scale,
    seed: Annotated[int, typer.Option(help="Of sampling; 0 is a seed.")] = DEFAULTS.seed,
    warm_up: Annotated[int, typer.Option(help="Requests answered before the measurement.")] = DEFAULTS.warm_up,
    drain: Annotated[
        float, typer.Option(help="Seconds to wait for answers after the last request.")
    ] = DEFAULTS.drain_s,
    threads: engine_flags.Threads = DEFAULTS.threads,
    device: engine_flags.Device = DEFAULTS.device,
    dtype: engine_flags.Dtype = DEFAULTS.dtype,
    policy: engine_flags.Policy = DEFAULTS.policy,
    pin: engine_flags.Pin = DEFAULTS.pin,
    slots: engine_flags.Slots = DEFAULTS.slots,
    kv_tokens: engine_flags.KvTokens = DEFAULTS.kv_tokens,
    max_rows: engine_flags.MaxRows = DEFAULTS.max_rows,
    max_context: engine_flags.MaxContext = DEFAULTS.max_context,
    host_budget: engine_flags.HostBudget = DEFAULTS.host_budget,
    repeats: Annotated[int, typer.Option(help="Times that each arm runs, in the order A B B A.")] = DEFAULTS.repeats,
    allow_reference: Annotated[
        bool, typer.Option("--allow-reference", help="Serve by plain PyTorch what no kernel covers; never a benchmark.")
    ] = DEFAULTS.allow_reference,
    runs_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    require_slo: Annotated[
        float | None, typer.Option(help="Exit with 3 unless this share of requests met their SLO in the first arm.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else on stdout.")] = False,
    report: Annotated[bool, typer.Option(help="Make figures and report.html.")] = True,
) -> int:
    """Replay a trace against several systems, and say what memory, latency, switches and right answers come to."""
    if require_slo is not None and not 0 <= require_slo <= 1:
        raise UsageError(f"--require-slo must be between 0 and 1, got {require_slo}")
    options = RunOptions(
        trace=trace,
        arms=arms,
        family=family,
        experts=experts,
        codec=codec,
        router=router,
        memory_budget=memory_budget,
        rate_scale=rate_scale,
        seed=seed,
        warm_up=warm_up,
        drain_s=drain,
        threads=threads,
        device=device,
        dtype=dtype,
        policy=policy,
        pin=pin,
        slots=slots,
        kv_tokens=kv_tokens,
        max_rows=max_rows,
        max_context=max_context,
        host_budget=host_budget,
        repeats=repeats,
        allow_reference=allow_reference,
    )
    check_runs_dir(runs_dir)
    console = Console(stderr=True)
    run_directory, interrupted = _measure(options, runs_dir, console)
    if run_directory is None or (interrupted and not run_directory.path.exists()):
        console.print("interrupted before the first answer; nothing is kept")
        return INTERRUPTED
    summary = rebuild_summary(run_directory.path)
    page = _report(run_directory, console) if report else None
    _show(summary, run_directory, page, as_json=as_json)
    return exit_code(summary, interrupted=interrupted, require_slo=require_slo)


def _measure(options: RunOptions, runs_dir: Path, console: Console) -> tuple[RunDirectory | None, bool]:
    """The run's directory, `None` if it never began, and whether the user interrupted it."""
    gpu = open_gpu()
    try:
        check_gpu(options.device, gpu)
        try:
            with console.status("preparing") as status:
                plan = planning.plan_run(options, gpu=gpu, report=status.update)
        except KeyboardInterrupt:
            return None, True
        with _Display(console) as display:
            return execute(plan, runs_dir, clock=MonotonicClock(), gpu=gpu, progress=display.callbacks)
    finally:
        gpu.close()


def exit_code(summary: Summary, *, interrupted: bool, require_slo: float | None) -> int:
    """What the process ends with: an interruption first, then validity, then the SLO."""
    if interrupted:
        return INTERRUPTED
    if not summary.valid:
        return INVALID
    if require_slo is not None:
        attained = next(iter(summary.arms.values())).slo_attainment
        if attained is None or attained.value < require_slo:
            return SLO_MISSED
    return OK


def _report(run_directory: RunDirectory, console: Console) -> Path:
    # matplotlib and pandas take seconds to import: never while something is measured
    from reports.build import build_report

    with console.status("drawing the report"):
        return build_report(run_directory.path)


def _show(summary: Summary, run_directory: RunDirectory, page: Path | None, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(run_directory.summary.read_text())
    else:
        print_summary(summary, run_directory.path, page, Console())


class _Display:
    """A progress bar for each arm, refreshed by rich's own thread a few times a second."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:>16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=4,
        )
        self._task: TaskID | None = None
        self._right = self._judged = self._failed = 0
        self.callbacks = RunProgress(on_plan=self._show_plan, on_arm=self._start_arm, on_record=self._advance)

    def __enter__(self) -> "_Display":
        return self

    def __exit__(self, *_: object) -> None:
        # of bars that were never started, the end is an empty line
        if self._task is not None:
            self._bars.stop()

    def _show_plan(self, name: str, plan: Mapping[str, int]) -> None:
        self._bars.console.print(f"{name}: " + "\n".join(MemoryPlan(**plan).lines()), highlight=False)

    def _start_arm(self, name: str, total: int) -> None:
        self._right = self._judged = self._failed = 0
        self._bars.start()
        self._task = self._bars.add_task(name, total=total, state="")

    def _advance(self, record: RequestRecord) -> None:
        if self._task is None:
            return
        self._failed += record.outcome not in ("ok", "cancelled")
        self._judged += record.correct is not None
        self._right += record.correct is True
        right = f"{self._right / self._judged:.0%} right" if self._judged else ""
        failed = f" {self._failed} failed" if self._failed else ""
        self._bars.update(self._task, advance=1, state=right + failed)
