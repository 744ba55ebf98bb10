"""`harness report`: everything derived, built again from a run's raw records."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.aggregation import rebuild_summary
from harness.cli.table import print_summary
from harness.results import find_run

__all__ = ["report"]


def report(
    run: Annotated[str, typer.Argument(help="A run's directory, its id, the end of its id, or latest.")],
    runs_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else on stdout.")] = False,
) -> int:
    """Rebuild summary.json, the figures and report.html of a run from its raw records."""
    from reports.build import build_report

    directory = find_run(run, runs_dir)
    summary = rebuild_summary(directory.path)
    page = build_report(directory.path)
    if as_json:
        sys.stdout.write(directory.summary.read_text())
    else:
        print_summary(summary, directory.path, page, Console())
    return 0
