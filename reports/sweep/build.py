"""A sweep's directory becomes a report: figures as SVG and PNG, tables as CSV, Markdown, and one page.

The same directory gives the same bytes: nothing here reads a clock, a random number or the environment.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from reports.build import emptied, replace_text
from reports.catalogue import DrawnFigure
from reports.figures import svg
from reports.figures.scaling import draw_hit_rates, draw_scaling
from reports.figures.svg import css_variables
from reports.figures.switches import draw_switches
from reports.figures.theme import drawing
from reports.html import Download, make_download
from reports.sweep.answer import caveats, sweep_sentences
from reports.sweep.projection import PROJECTION_HEADINGS, PROJECTION_NOTE, projection_cells
from reports.sweep.source import SweepSource, read_sweep
from reports.sweep.switching import (
    BESIDE_HEADINGS,
    CASES,
    SWITCH_HEADINGS,
    beside_cells,
    switch_cells,
    switching_lines,
)
from reports.sweep.tables import CELL_HEADINGS, FIT_HEADINGS, METHOD_LINES, cell_cells, fit_cells, markdown
from reports.sweep.versus import VERSUS_HEADINGS, versus_cells
from reports.tables import to_csv

__all__ = ["build_sweep_report"]

CAPTION = (
    "Our system is solid, every baseline dashed. Crosses are what memory did not hold. Vertical strokes are 95 % "
    "intervals; the dashed line over the memory is the budget. A switch is its copy to the device, where there is one."
)


SHARED = " Experts share host buffers where the host cannot hold all of them."

FOUND = "Share of requests whose expert was on the device."

BOUND = " Dotted: the best any policy could have done."

SWITCHES = "Ours in colour, baselines grey and dashed, one request at a time. Strokes are 95 % intervals."


def build_sweep_report(sweep_dir: Path, *, switching: Path | None = None) -> Path:
    """The path of `report.html`, after writing it, `report.md`, `figures/` and `tables/` into `sweep_dir`.

    Args:
        sweep_dir: of the sweep.
        switching: as `read_sweep`.

    Raises:
        UsageError: `switching` is no directory of switches.
        RunFormatError: a file of the sweep is missing or damaged.
    """
    source = read_sweep(sweep_dir, switching=switching)
    texts = {"sweep": _csv(source.rows), "fit": _csv(source.fits)}
    if source.switching is not None:
        texts["switching"] = _csv(source.switching.tables.rows)
        texts["interference"] = _csv(source.switching.tables.interference)
    folder = emptied(sweep_dir / "tables")
    for name, text in texts.items():
        replace_text(folder / f"{name}.csv", text)
    figures = list(_draw(source, emptied(sweep_dir / "figures")))
    replace_text(sweep_dir / "report.md", _markdown(source))
    labels = {
        "sweep": "every cell",
        "fit": "the lines",
        "switching": "what a switch costs whoever waits",
        "interference": "what it costs the others",
    }
    downloads = [make_download(f"{name}.csv", labels[name], text) for name, text in texts.items()]
    page = sweep_dir / "report.html"
    replace_text(page, _page(source, figures, downloads))
    return page


def _csv(rows: object) -> str:
    frame = pd.DataFrame([asdict(row) for row in rows])  # type: ignore[attr-defined]
    return to_csv(frame) if len(frame) else ""


def _draw(source: SweepSource, folder: Path) -> Iterator[DrawnFigure]:
    with drawing():
        for part in source.slices:
            figure = draw_scaling(part.rows, treatment=source.treatment)
            if figure is not None:
                yield _drawn(
                    figure,
                    folder,
                    name=f"scaling-{part.name}",
                    title=part.title,
                    caption=CAPTION + (SHARED if any(row.shared_images for row in part.rows) else ""),
                )
        ours = [row for row in source.rows if row.arm == source.treatment]
        figure = draw_hit_rates(ours)
        if figure is not None:
            yield _drawn(
                figure,
                folder,
                name="hit-rates",
                title=f"Found resident: {source.treatment}",
                caption=FOUND + (BOUND if any(row.belady_hit_rate is not None for row in ours) else ""),
            )

        if source.switching is not None:
            figure = draw_switches(source.switching.tables.rows, cases=CASES)
            if figure is not None:
                title = "One switch"
                yield _drawn(figure, folder, name="switches", title=title, caption=SWITCHES, section="switching")


def _drawn(
    figure: Figure, folder: Path, *, name: str, title: str, caption: str, section: str = "scaling"
) -> DrawnFigure:
    document = svg.save(figure, folder / name)
    element = svg.inline_svg(document, name, f"{title}. The tables have the numbers.")
    return DrawnFigure(section=section, name=name, title=title, caption=caption, svg=element)


def _title(source: SweepSource) -> str:
    most = max((row.experts for row in source.rows), default=0)
    return f"{source.manifest.family.get('name')}: up to {most} experts, {len(source.rows)} cells"


def _markdown(source: SweepSource) -> str:
    lines = [f"**{_title(source)}**", ""]
    lines += [*(f"- {sentence}" for sentence in (*sweep_sentences(source), *caveats(source))), ""]
    for part in source.slices:
        lines += [f"{part.title}:", "", markdown(CELL_HEADINGS, [cell_cells(row) for row in part.rows]), ""]
    if versus := versus_cells(source):
        lines += ["Against each baseline:", "", markdown(VERSUS_HEADINGS, versus), ""]
    if source.switching is not None:
        tables = source.switching.tables
        lines += ["Switches alone:", "", *(f"- {line}" for line in switching_lines(source.switching)), ""]
        lines += [markdown(SWITCH_HEADINGS, switch_cells(tables.rows)), ""]
        lines += [markdown(BESIDE_HEADINGS, beside_cells(tables.interference)), ""]
    if projected := projection_cells(source):
        lines += [PROJECTION_NOTE, "", markdown(PROJECTION_HEADINGS, projected), ""]
    if source.fits:
        lines += ["One more expert:", "", markdown(FIT_HEADINGS, [fit_cells(row) for row in source.fits]), ""]
    return "\n".join(lines)


def _page(source: SweepSource, figures: list[DrawnFigure], downloads: list[Download]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    manifest = source.manifest
    facts = {"command": manifest.command, "provenance": manifest.provenance, "family": manifest.family}
    return environment.get_template("sweep.html.j2").render(
        title=_title(source),
        manifest=manifest,
        sentences=sweep_sentences(source),
        caveats=caveats(source),
        figures=[figure for figure in figures if figure.section == "scaling"],
        versus_headings=VERSUS_HEADINGS,
        versus=versus_cells(source),
        switching=_switching(source, [figure for figure in figures if figure.section == "switching"]),
        projection_headings=PROJECTION_HEADINGS,
        projection_note=PROJECTION_NOTE,
        projection=projection_cells(source),
        fit_headings=FIT_HEADINGS,
        fits=[fit_cells(row) for row in source.fits],
        cell_headings=CELL_HEADINGS,
        slices=[{"title": part.title, "cells": [cell_cells(row) for row in part.rows]} for part in source.slices],
        facts=json.dumps({**facts, "config": manifest.config}, indent=2, ensure_ascii=False),
        methods=METHOD_LINES,
        downloads=downloads,
        light=css_variables(dark=False),
        dark=css_variables(dark=True),
    )


def _switching(source: SweepSource, figures: Sequence[DrawnFigure]) -> dict[str, object] | None:
    """What the page shows of switches alone."""
    if source.switching is None:
        return None
    tables = source.switching.tables
    return {
        "lines": switching_lines(source.switching),
        "figures": figures,
        "headings": SWITCH_HEADINGS,
        "rows": switch_cells(tables.rows),
        "beside_headings": BESIDE_HEADINGS,
        "beside": beside_cells(tables.interference),
        "facts": json.dumps(
            {
                "command": source.switching.manifest.command,
                "config": source.switching.manifest.config,
                "provenance": source.switching.manifest.provenance,
            },
            indent=2,
            ensure_ascii=False,
        ),
    }
