"""The page: one HTML file with its style, figures and data inside, which asks the network for nothing."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import jinja2

from harness.headline import has_answers
from harness.units import format_bytes
from reports.answer import answer_cards
from reports.catalogue import DrawnFigure
from reports.definitions import DEFINITIONS
from reports.figures.svg import css_variables
from reports.headline import caveat, headline, subject
from reports.rows import client_rows, expert_headings, expert_rows, metric_rows, provenance_rows
from reports.source import RunSource
from reports.tables import wrong_answers
from reports.verdict import run_verdict

__all__ = ["EMBED_LIMIT_BYTES", "Download", "make_download", "render_page"]

EMBED_LIMIT_BYTES = 8 * 1024**2
"""A table larger than this is named in the page and lies beside it, instead of inside."""

_WRONG_ANSWERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A table offered for download: `href` holds the data itself, `None` if it is too large to embed."""

    name: str
    label: str
    rows: int
    size: str
    href: str | None


def make_download(name: str, label: str, text: str) -> Download:
    """`text` (CSV) as a link that needs no network."""
    data = text.encode()
    fits = len(data) <= EMBED_LIMIT_BYTES
    encoded = base64.b64encode(data).decode() if fits else ""
    return Download(
        name=name,
        label=label,
        rows=max(text.count("\n") - 1, 0),
        size=f"{len(data) / 1024:,.0f} KiB" if len(data) < 1024**2 else format_bytes(len(data)),
        href=f"data:text/csv;charset=utf-8;base64,{encoded}" if fits else None,
    )


def render_page(source: RunSource, figures: Sequence[DrawnFigure], downloads: Sequence[Download]) -> str:
    """The whole page as text; everything that people wrote is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        source=source,
        summary=source.summary,
        manifest=source.manifest,
        verdict=run_verdict(source.summary),
        headline=headline(source),
        subject=subject(source),
        caveat=caveat(source),
        cards=answer_cards(source),
        figures=_by_section(figures),
        metrics=metric_rows(source),
        experts=expert_rows(source),
        expert_headings=expert_headings(source),
        answers=has_answers(source.summary.family),
        client=client_rows(source),
        provenance=list(provenance_rows(source)),
        configuration=_configuration(source),
        wrong={arm: wrong_answers(source.records, arm, _WRONG_ANSWERS) for arm in source.arms},
        definitions=DEFINITIONS,
        downloads=downloads,
        light=css_variables(dark=False),
        dark=css_variables(dark=True),
    )


def _by_section(figures: Sequence[DrawnFigure]) -> Mapping[str, list[DrawnFigure]]:
    sections: dict[str, list[DrawnFigure]] = {}
    for figure in figures:
        sections.setdefault(figure.section, []).append(figure)
    return sections


def _configuration(source: RunSource) -> list[tuple[str, str]]:
    """The resolved configuration of the run, the router and each arm, as indented JSON."""
    parts = [("run", source.manifest.config)]
    if source.manifest.router is not None:
        parts.append(("router", source.manifest.router))
    parts += [(f"arm {arm.name}", asdict(arm)) for arm in source.manifest.arms]
    return [(name, json.dumps(part, indent=2, ensure_ascii=False)) for name, part in parts]
