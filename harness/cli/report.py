"""`harness report`: everything derived, built again from a run's raw records."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.aggregation import rebuild_summary
from harness.cli.table import print_summary
from harness.errors import UsageError
from harness.results import find_run
from harness.sweep.build import rebuild_sweep
from harness.sweep.results import SweepDirectory
from harness.switching.build import rebuild_switching
from harness.switching.results import SwitchingDirectory

__all__ = ["report"]


def report(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's directory, its id, the end of its id, or latest; or a sweep's directory, or that of switches."
        ),
    ],
    runs_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    switching: Annotated[
        Path | None,
        typer.Option(help="Of a sweep: a directory of harness switching; by default one of that name beside it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else on stdout.")] = False,
) -> int:
    """Rebuild summary.json, the figures and report.html of a run, or of a sweep, from its raw records."""
    from reports.build import build_report

    if SweepDirectory(Path(run)).manifest.is_file():
        return _report_sweep(Path(run), switching=switching, as_json=as_json)
    if switching is not None:
        raise UsageError(f"--switching is for the report of a sweep, and {run} is none")
    if SwitchingDirectory(Path(run)).manifest.is_file():
        return _report_switching(Path(run), as_json=as_json)
    directory = find_run(run, runs_dir)
    summary = rebuild_summary(directory.path)
    page = build_report(directory.path)
    if as_json:
        sys.stdout.write(directory.summary.read_text())
    else:
        print_summary(summary, directory.path, page, Console())
    return 0


def _report_sweep(path: Path, *, switching: Path | None, as_json: bool) -> int:
    from reports.sweep.build import build_sweep_report

    directory = SweepDirectory(path)
    rebuild_sweep(directory)
    page = build_sweep_report(path, switching=switching)
    if as_json:
        sys.stdout.write(directory.rows.read_text())
    else:
        typer.echo(f"report  {page.resolve().as_uri()}")
    return 0


def _report_switching(path: Path, *, as_json: bool) -> int:
    directory = SwitchingDirectory(path)
    rebuild_switching(directory)
    if as_json:
        sys.stdout.write(directory.rows.read_text())
    else:
        typer.echo(f"written {directory.rows} and {directory.interference}")
    return 0
