"""A run directory becomes a report: tables as CSV, figures as SVG and PNG, and one page that holds it all.

The same run directory gives the same bytes: nothing here reads a clock, a random number or the environment.
"""

import os
from pathlib import Path

import pandas as pd

from reports.catalogue import Tables, draw_figures
from reports.html import make_download, render_page
from reports.markdown import run_markdown
from reports.source import RunSource, read_run
from reports.tables import (
    arms_table,
    confusion_table,
    experts_table,
    requests_table,
    samples_table,
    switches_by_arm,
    switches_table,
    to_csv,
)

__all__ = ["build_report", "emptied", "replace_text"]

_LABELS = {
    "requests": "every request: stamps, verdict, answer",
    "switches": "every switch",
    "telemetry": "samples of the machine",
    "arms": "figures by arm",
    "experts": "figures by arm and expert",
}


def build_report(run_dir: Path) -> Path:
    """The path of `report.html`, after writing it, `report.md`, `figures/` and `tables/` into `run_dir`.

    `manifest.json`, `summary.json`, `requests.jsonl` and `telemetry.jsonl` are read and left alone.

    Raises:
        RunFormatError: a file of the run is missing or damaged.
    """
    source = read_run(run_dir)
    tables = Tables(
        requests=requests_table(source.records),
        switches=switches_by_arm(source.records),
        samples=samples_table(source.samples),
        experts=experts_table(source.summary),
    )
    texts = {name: to_csv(table) for name, table in _all_tables(source, tables).items()}
    folder = emptied(run_dir / "tables")
    for name, text in texts.items():
        replace_text(folder / f"{name}.csv", text)
    figures = draw_figures(source, tables, emptied(run_dir / "figures"))
    downloads = [make_download(f"{name}.csv", _LABELS.get(name, name), text) for name, text in texts.items()]
    replace_text(run_dir / "report.md", run_markdown(source))
    page = run_dir / "report.html"
    replace_text(page, render_page(source, figures, downloads))
    return page


def _all_tables(source: RunSource, tables: Tables) -> dict[str, pd.DataFrame]:
    named = {
        "requests": tables.requests,
        "switches": switches_table(source.records),
        "telemetry": tables.samples,
        "arms": arms_table(source.summary),
        "experts": tables.experts,
    }
    for i, arm in enumerate(source.arms):
        named[f"routing-{i}"] = confusion_table(source.records, arm)
    return named


def emptied(folder: Path) -> Path:
    """`folder` without the files of an earlier build, which this one may have no data for."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.suffix in {".csv", ".png", ".svg"}:
            path.unlink()
    return folder


def replace_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all: an interrupted build leaves the old file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
