"""`harness sweep`: how throughput, waiting, switching and memory grow with the number of experts."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli import engine_flags
from harness.cli.columns import print_columns
from harness.engines import make_options
from harness.planning import DEFAULT_CODEC, parse_names
from harness.results import check_runs_dir
from harness.sizes import format_bytes, parse_bytes
from harness.sweep.build import rebuild_sweep
from harness.sweep.cells import Grid, parse_grid
from harness.sweep.estimate import ASSUMPTIONS, estimate_groups
from harness.sweep.execute import SweepProgress, execute_sweep, is_done
from harness.sweep.origin import check_card
from harness.sweep.plan import SweepPlan, engine_groups, plan_sweep
from harness.sweep.presets import PRESETS, SweepChoices, choose
from harness.sweep.results import CellRecord, SweepDirectory
from harness.sweep.rows import SweepRow
from harness.sweep.workload import Workload
from harness.telemetry import GpuMonitor, card_name, check_gpu, open_gpu
from harness.units import MISSING, format_number, format_seconds, format_share

__all__ = ["cell_columns", "sweep"]

OK, INVALID, INTERRUPTED = 0, 2, 130

WORDS = ("engine", "arm", "load", "outcome")
PLAN_HEADINGS = ("engine", "experts", "budget", "cells", "done", "about", "at most")
ROW_HEADINGS = ("arm", "load", "experts", "outcome", "tokens/s", "TTFT p50", "hits", "memory")


def sweep(
    out: Annotated[Path, typer.Option("--out", "-o", help="The sweep's directory; called again, it goes on there.")],
    preset: Annotated[str, typer.Option(help=f"What is not given below: {', '.join(PRESETS)}.")] = "quick",
    family: Annotated[str | None, typer.Option(help="A shape, such as mistral-7b, or a trained family.")] = None,
    experts: Annotated[str | None, typer.Option(help="Numbers of experts, with commas.")] = None,
    arms: Annotated[str | None, typer.Option(help="Systems to compare, with commas.")] = None,
    policies: Annotated[str | None, typer.Option(help="Eviction policies, with commas.")] = None,
    popularity: Annotated[
        str | None, typer.Option(help="uniform, zipf:S, distinct (every request another), identical; with commas.")
    ] = None,
    in_flight: Annotated[str | None, typer.Option(help="Closed loops: requests at any moment, with commas.")] = None,
    rate: Annotated[str | None, typer.Option(help="Open loops: Poisson requests a second, with commas.")] = None,
    memory_budget: Annotated[str | None, typer.Option(help="Such as 24GiB,40GiB,76GiB.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    codec: engine_flags.Codec = DEFAULT_CODEC,
    dtype: engine_flags.Dtype = None,
    pin: engine_flags.Pin = "",
    slots: engine_flags.Slots = None,
    kv_tokens: engine_flags.KvTokens = None,
    max_rows: engine_flags.MaxRows = None,
    max_context: engine_flags.MaxContext = None,
    host_budget: engine_flags.HostBudget = None,
    threads: engine_flags.Threads = 1,
    prompt_tokens: Annotated[int | None, typer.Option(help="Of each request.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Of each request.")] = None,
    seconds_per_cell: Annotated[float | None, typer.Option(help="That are measured.")] = None,
    requests_per_cell: Annotated[int | None, typer.Option(help="Answered, they end a cell before its time.")] = None,
    warm_up: Annotated[float | None, typer.Option(help="Seconds before the measurement, at least.")] = None,
    warm_up_limit: Annotated[float | None, typer.Option(help="Seconds before the measurement, at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of prompts, experts and arrivals; 0 is a seed.")] = 0,
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which no cell is begun.")] = None,
    commit: engine_flags.Commit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells and estimated time; start nothing.")] = False,
    report: Annotated[bool, typer.Option(help="Make figures and report.html.")] = True,
) -> int:
    """Measure every combination of experts, arms, policies, popularities, loads and memory budgets."""
    given = SweepChoices(
        family=family,
        device=device,
        experts=experts,
        arms=arms,
        policies=policies,
        popularity=popularity,
        # a rate alone asks for no closed loop
        in_flight=in_flight if in_flight is not None or rate is None else "",
        rates=rate,
        budgets=memory_budget,
        host_budget=host_budget,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        seconds=seconds_per_cell,
        warm_up_s=warm_up,
        warm_up_limit_s=warm_up_limit,
    )
    choices = choose(preset, given)
    grid = _grid(choices)
    options = make_options(
        device=choices.device or "cpu",
        dtype=dtype,
        kv_tokens=kv_tokens,
        max_rows=max([16, *grid.in_flight]) if max_rows is None else max_rows,
        max_context=max_context,
        pinned=parse_names(pin),
        slots=slots,
        host_budget_bytes=parse_bytes(choices.host_budget) if choices.host_budget else None,
        threads=threads,
    )
    workload = _workload(choices, requests=requests_per_cell, seed=seed)
    check_runs_dir(out, option="--out")
    console, directory = Console(stderr=True), SweepDirectory(out)
    with closing(open_gpu()) as gpu:
        if not dry_run:
            # before anything is made ready for a GPU that is not there
            check_gpu(options.device, gpu)
        with console.status("preparing") as status:
            plan = plan_sweep(
                grid, workload, options, family=choices.family or "", codec=codec, commit=commit, report=status.update
            )
        if dry_run:
            # refused as by the call that measures: what another card measured is not done
            card = card_name(gpu.description) if options.device == "cuda" else None
            check_card(directory, configuration=plan.configuration, card=card)
            _print_plan(plan, directory)
            return OK
        return _run(plan, directory, console, gpu=gpu, time_limit=time_limit, report=report)


def _grid(choices: SweepChoices) -> Grid:
    return parse_grid(
        arms=choices.arms or "",
        experts=choices.experts or "",
        policies=choices.policies or "",
        popularities=choices.popularity or "",
        in_flight=choices.in_flight or "",
        rates=choices.rates or "",
        budgets=choices.budgets or "",
    )


def _workload(choices: SweepChoices, *, requests: int | None, seed: int) -> Workload:
    defaults = Workload()
    return Workload(
        # a zero is an answer, and refused as such
        prompt_tokens=defaults.prompt_tokens if choices.prompt_tokens is None else choices.prompt_tokens,
        output_tokens=defaults.output_tokens if choices.output_tokens is None else choices.output_tokens,
        seconds=defaults.seconds if choices.seconds is None else choices.seconds,
        requests=requests,
        warm_up_s=defaults.warm_up_s if choices.warm_up_s is None else choices.warm_up_s,
        warm_up_limit_s=defaults.warm_up_limit_s if choices.warm_up_limit_s is None else choices.warm_up_limit_s,
        seed=seed,
    )


def _run(
    plan: SweepPlan,
    directory: SweepDirectory,
    console: Console,
    *,
    gpu: GpuMonitor,
    time_limit: float | None,
    report: bool,
) -> int:
    interrupted = False
    try:
        progress = SweepProgress(
            on_engine=lambda arm, experts: console.print(f"{arm}: an engine of {experts} experts", highlight=False),
            on_start=lambda seconds, phases: console.print(_started(seconds, phases), highlight=False, soft_wrap=True),
            on_cell=lambda record: console.print(_line(record), highlight=False, soft_wrap=True),
        )
        left = execute_sweep(plan, directory, gpu=gpu, progress=progress, time_limit_s=time_limit)
    except KeyboardInterrupt:
        interrupted, left = True, 0
    if interrupted and not directory.manifest.exists():
        console.print("interrupted before the first cell; nothing is kept")
        return INTERRUPTED
    rows = rebuild_sweep(directory).rows
    _print_rows(rows)
    if report:
        # matplotlib and pandas take seconds to import: never while something is measured
        from reports.sweep.build import build_sweep_report

        with console.status("drawing the report"):
            page = build_sweep_report(directory.path)
        console.print(f"report  {page.resolve().as_uri()}", highlight=False, soft_wrap=True)
    typer.echo(f"written {directory.rows}" + (f"; {left} cells are left: call again" if left else ""))
    if interrupted:
        return INTERRUPTED
    return OK if all(row.valid or row.outcome in ("does-not-fit", "oom") for row in rows) else INVALID


def _started(seconds: float, phases: Mapping[str, float]) -> str:
    named = ", ".join(f"{name} {phase_s:.1f}" for name, phase_s in phases.items())
    return f"  started in {seconds:.1f} s: {named}"


def _line(record: CellRecord) -> str:
    why = f": {record.message}" if record.message else ""
    return f"  {record.key}  {record.outcome}{why}"


def _print_plan(plan: SweepPlan, directory: SweepDirectory) -> None:
    shown = []
    total_s = most_s = 0.0
    count = 0
    groups = [(group, [cell for cell in group.cells if not is_done(directory, cell)]) for group in engine_groups(plan)]
    for (group, missing), seconds in zip(groups, estimate_groups(plan, groups), strict=True):
        about, most = (seconds.total_s, seconds.most_s) if seconds else (0.0, 0.0)
        total_s, most_s, count = total_s + about, most_s + most, count + len(missing)
        counts = (str(len(group.cells)), str(len(group.cells) - len(missing)))
        budget = format_bytes(group.config.memory_budget_bytes)
        shown.append((group.arm.name, str(group.experts), budget, *counts, f"{about:.0f} s", f"{most:.0f} s"))
    print_columns(PLAN_HEADINGS, shown, words=WORDS)
    typer.echo()
    for cell in plan.grid.cells():
        typer.echo(cell.key)
    typer.echo(f"\n{count} cells to measure: about {total_s:.0f} s, at most {most_s:.0f} s, taking that")
    for name, value in ASSUMPTIONS.items():
        typer.echo(f"  {name} = {value:g}")


def _print_rows(rows: Sequence[SweepRow]) -> None:
    print_columns(ROW_HEADINGS, [cell_columns(row) for row in rows], words=WORDS)
    typer.echo()


def cell_columns(row: SweepRow) -> tuple[str, ...]:
    """A row of `ROW_HEADINGS`."""
    load = f"n={row.in_flight}" if row.in_flight is not None else f"{row.rate_per_s:g}/s"
    # where no driver counts the memory, it is that of the weights
    nbytes = row.nvml_bytes if row.nvml_bytes is not None else row.weight_bytes
    return (
        row.arm,
        f"{row.popularity} {load}",
        str(row.experts),
        row.outcome if row.valid or row.outcome != "ok" else "not valid",
        format_number(row.output_tokens_per_s),
        format_seconds(row.ttft_p50_s),
        format_share(row.hit_rate),
        MISSING if nbytes is None else format_bytes(nbytes),
    )
