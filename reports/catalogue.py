"""The figures of a report, in the page's order: drawn, saved and described for those who cannot see them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from harness.records import SwitchRecord
from harness.units import format_bytes, format_count, format_plural, format_seconds, format_share
from harness.weights import serving_parts, weight_parts, whole_models_bytes
from reports.figures import latency, memory, quality, svg, switching
from reports.figures.theme import ROLES, arm_colours, drawing
from reports.source import RunSource
from reports.tables import confusion_table, switches_by_arm

__all__ = ["DrawnFigure", "Tables", "draw_figures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The tables that figures are drawn from."""

    requests: pd.DataFrame
    switches: Mapping[str, Sequence[SwitchRecord]]
    samples: pd.DataFrame
    experts: pd.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFigure:
    """One figure in the page: its section, its title and caption, and the `<svg>` element."""

    section: str
    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    section: str
    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure | None]


def draw_figures(source: RunSource, tables: Tables, folder: Path) -> list[DrawnFigure]:
    """Every figure that the run has data for; each is also written to `folder` as SVG and PNG."""
    folder.mkdir(exist_ok=True)
    drawn = []
    with drawing():
        for plan in _plans(source, tables):
            figure = plan.draw()
            if figure is None:
                continue
            document = svg.save(figure, folder / plan.name)
            element = svg.inline_svg(document, plan.name, f"{plan.title}. {plan.alt}")
            drawn.append(
                DrawnFigure(section=plan.section, name=plan.name, title=plan.title, caption=plan.caption, svg=element)
            )
    return drawn


def _plans(source: RunSource, tables: Tables) -> Iterator[_Plan]:
    yield from _latency_plans(source, tables)
    yield from _switch_plans(source, tables)
    yield from _memory_plans(source, tables)
    yield from _quality_plans(source, tables)


def _latency_plans(source: RunSource, tables: Tables) -> Iterator[_Plan]:
    arms, treatment = source.arms, source.treatment
    named = (
        ("ttft_s", "ttft", "Time to first token"),
        ("e2e_s", "e2e", "End to end"),
        ("tpot_s", "tpot", "Time per output token after the first"),
    )
    for column, name, title in named:
        yield _Plan(
            section="latency",
            name=f"{name}-by-arm",
            title=title,
            caption="Share of scheduled requests done within a time. Curves of failed requests end below 100 %.",
            alt=_medians(source, column),
            draw=partial(
                latency.draw_latency_by_arm,
                tables.requests,
                column,
                arms=arms,
                treatment=treatment,
                label=title.lower(),
            ),
        )
        if column == "ttft_s":
            yield _Plan(
                section="latency",
                name="ttft-by-class",
                title="Time to first token by residency class",
                caption="Where the expert was at admission: resident, in host memory, on disk. Shares are by class.",
                alt=_medians_by_class(source),
                draw=partial(
                    latency.draw_latency_by_class,
                    tables.requests,
                    "ttft_s",
                    arms=arms,
                    treatment=treatment,
                    label="time to first token",
                ),
            )


def _switch_plans(source: RunSource, tables: Tables) -> Iterator[_Plan]:
    arms, treatment = source.arms, source.treatment
    # of an arm that ran several times, what has a time axis shows the first
    first = [record for record in source.records if record.repeat == 0]
    counts = "; ".join(f"{arm}: {format_count(figures.switches)}" for arm, figures in source.summary.arms.items())
    yield _Plan(
        section="switching",
        name="switch-times",
        title="How long a switch takes",
        caption="Distinct switches that any request waited for, by where the weights came from.",
        alt=f"Number of switches: {counts}.",
        draw=partial(switching.draw_switch_times, tables.switches, arms=arms, treatment=treatment),
    )
    yield _Plan(
        section="switching",
        name="moved",
        title="Bytes moved by switches",
        caption="Added up over the run. A steep line keeps a disk or a bus busy.",
        alt="; ".join(f"{arm}: {format_bytes(f.moved_bytes)}" for arm, f in source.summary.arms.items()) + ".",
        draw=partial(switching.draw_moved, switches_by_arm(first), arms=arms, treatment=treatment),
    )
    colours = arm_colours(arms, treatment)
    for i, arm in enumerate(arms):
        yield _Plan(
            section="switching",
            name=f"timeline-{i}",
            title=f"Residency over time: {arm}",
            caption="A lane an expert: when it was resident, switched in, and asked for.",
            alt=f"{format_count(source.summary.arms[arm].switches)} switches over the run.",
            draw=partial(
                switching.draw_timeline,
                [r for r in first if r.arm == arm],
                switches_by_arm(first).get(arm, ()),
                experts=source.experts,
                colour=colours[arm],
            ),
        )
    for i, arm in enumerate(arms):
        yield _Plan(
            section="switching",
            name=f"evictions-{i}",
            title=f"Who made way for whom: {arm}",
            caption="Count of switches by expert evicted (rows) and loaded (columns).",
            alt=f"{format_count(source.summary.arms[arm].switches)} switches.",
            draw=partial(
                switching.draw_evictions, tables.switches.get(arm, ()), experts=source.experts, role=_role(source, arm)
            ),
        )


def _memory_plans(source: RunSource, tables: Tables) -> Iterator[_Plan]:
    bars = memory_bars(source)
    budgets = {f.budget_bytes for f in source.summary.arms.values() if f.budget_bytes}
    limits = {"budget": budgets.pop()} if len(budgets) == 1 else {}
    first = tables.samples[tables.samples["repeat"] == 0]
    yield _Plan(
        section="memory",
        name="weight-memory",
        title="Weights in memory",
        caption="What each arm held at the end, the treatment with the codes of all experts; and whole models.",
        alt="; ".join(f"{bar.label}: {sum(bar.parts.values()):,} bytes" for bar in bars) + ".",
        draw=partial(memory.draw_memory, bars, limits=limits),
    )
    yield _Plan(
        section="memory",
        name="lanes",
        title="The machine over time",
        caption="Samples of the engine's process and of the client, from each arm's own start.",
        alt="Lines over time for each sampled quantity; the CSV of samples has the numbers.",
        draw=partial(memory.draw_lanes, first, arms=source.arms, treatment=source.treatment),
    )


def memory_bars(source: RunSource) -> list[memory.MemoryBar]:
    """Weight bytes of each arm, and after the treatment what as many whole models would take."""
    bars = []
    for arm in source.arms:
        held = source.arm(arm)
        parts = serving_parts(held, source.manifest.family) if arm == source.treatment else weight_parts(held)
        if parts:
            bars.append(memory.MemoryBar(label=arm, parts=parts))
    whole = whole_models_bytes(source.arm(source.treatment), source.manifest.family)
    if whole is not None:
        label = format_plural(source.expert_count, "whole model")
        bars.insert(1, memory.MemoryBar(label=label, parts={"experts": whole}, computed=True))
    return bars


def _quality_plans(source: RunSource, tables: Tables) -> Iterator[_Plan]:
    accuracy = "; ".join(
        f"{arm}: {format_share(figures.accuracy.value if figures.accuracy else None)}"
        for arm, figures in source.summary.arms.items()
    )
    yield _Plan(
        section="experts",
        name="accuracy-by-expert",
        title="Right answers by expert",
        caption="The requests that wanted each expert, whichever expert answered them.",
        alt=f"All experts together: {accuracy}.",
        draw=partial(quality.draw_accuracy, tables.experts, arms=source.arms, treatment=source.treatment),
    )
    yield _Plan(
        section="experts",
        name="ttft-by-expert",
        title="Time to first token by expert",
        caption="Median of the requests that wanted each expert. Without a bar, too few requests for an interval.",
        alt=f"All experts together: {_medians(source, 'ttft_s')}",
        draw=partial(quality.draw_ttft, tables.experts, arms=source.arms, treatment=source.treatment),
    )
    for i, arm in enumerate(source.arms):
        router = source.summary.arms[arm].router_accuracy
        yield _Plan(
            section="routing",
            name=f"routing-{i}",
            title=f"Wanted against chosen: {arm}",
            caption="Count of requests, shaded by the share of their row. The diagonal is right.",
            alt=f"Router right: {format_share(router.value if router else None)}.",
            draw=partial(quality.draw_routing, confusion_table(source.records, arm), role=_role(source, arm)),
        )


def _role(source: RunSource, arm: str) -> str:
    colour = arm_colours(source.arms, source.treatment)[arm]
    return next(role for role, (light, _) in ROLES.items() if light == colour)


def _medians(source: RunSource, column: str) -> str:
    parts = []
    for arm, figures in source.summary.arms.items():
        p50 = getattr(figures, column).p50
        parts.append(f"{arm}: median {format_seconds(p50.value if p50 else None)}")
    return "; ".join(parts) + "."


def _medians_by_class(source: RunSource) -> str:
    parts = []
    for arm, figures in source.summary.arms.items():
        for residency, quantiles in figures.ttft_s_by_class.items():
            if quantiles.p50 is not None:
                parts.append(f"{arm}, {residency}: median {format_seconds(quantiles.p50.value)} of {quantiles.n:,}")
    return "; ".join(parts) + "."
