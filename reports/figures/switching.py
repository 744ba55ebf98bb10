"""What switching looked like: how long switches took, which expert was resident when, which made way for which."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.records import NS_PER_S, RequestRecord, SwitchRecord
from reports.figures.grid import clip, draw_counts
from reports.figures.theme import CLASS_DASHES, ROLES, arm_colours, log_seconds, new_figure

__all__ = ["FREE", "draw_evictions", "draw_moved", "draw_switch_times", "draw_timeline", "residency_spans"]

MIB = 1024**2
FREE = "(free)"
"""Stands for the expert evicted by a switch that evicted nobody."""


def draw_switch_times(
    switches: Mapping[str, Sequence[SwitchRecord]], *, arms: Sequence[str], treatment: str | None
) -> Figure | None:
    """Histogram of switch times on a log axis, a line for each arm and source; `None` without a switch."""
    timed = {
        (arm, place): np.log10([s.duration_s for s in switches.get(arm, ()) if s.source == place and s.duration_s > 0])
        for arm in arms
        for place in ("host", "disk")
    }
    timed = {key: values for key, values in timed.items() if len(values)}
    if not timed:
        return None
    colours = arm_colours(arms, treatment)
    figure, axes = new_figure(2.9)
    ax = axes[0, 0]
    every = np.concatenate(list(timed.values()))
    edges = np.linspace(every.min() - 0.05, every.max() + 0.05, 31)
    handles = []
    for (arm, place), values in timed.items():
        counts, _ = np.histogram(values, bins=edges)
        ax.stairs(counts, 10**edges, color=colours[arm], alpha=0.18, fill=True)
        ax.stairs(counts, 10**edges, color=colours[arm], linewidth=1.6, linestyle=CLASS_DASHES[place])
        label = f"{arm}, from {place} ({len(values):,})"
        handles.append(Line2D([], [], color=colours[arm], linestyle=CLASS_DASHES[place], label=label))
    log_seconds(ax)
    ax.set_xlabel("switch time (log scale)")
    ax.set_ylabel("switches")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.45, -0.24), ncols=2, handlelength=2.6)
    return figure


def draw_moved(
    switches: Mapping[str, Sequence[SwitchRecord]], *, arms: Sequence[str], treatment: str | None
) -> Figure | None:
    """Bytes moved by switches so far, over time, a line an arm; `None` without a switch."""
    if not any(switches.get(arm) for arm in arms):
        return None
    colours = arm_colours(arms, treatment)
    figure, axes = new_figure(2.9)
    ax = axes[0, 0]
    end_s = max(s.ready_ns for arm in arms for s in switches.get(arm, ())) / NS_PER_S
    for arm in arms:
        mine = switches.get(arm, ())
        times = [0.0, *(s.ready_ns / NS_PER_S for s in mine), end_s]
        moved = np.cumsum([0, *(s.moved_bytes for s in mine), 0]) / MIB
        ax.plot(times, moved, drawstyle="steps-post", color=colours[arm], linewidth=1.8, label=arm)
    ax.set_xlim(0, end_s)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("time since the arm's start, s")
    ax.set_ylabel("moved so far, MiB")
    ax.legend(loc="upper left")
    return figure


def residency_spans(switches: Sequence[SwitchRecord], end_s: float) -> dict[str, list[tuple[float, float]]]:
    """When each expert was resident, as spans in seconds, read off one arm's switches in order of decision.

    An expert is resident from the end of its switch until a later one evicts it, or until `end_s`. Of experts that
    were resident from the start the records tell only when they are evicted.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    since: dict[str, float] = {}
    for switch in switches:
        for gone in switch.evicted:
            spans.setdefault(gone, []).append((since.pop(gone, 0.0), switch.decided_ns / NS_PER_S))
        since[switch.expert] = switch.ready_ns / NS_PER_S
    for expert, start in since.items():
        spans.setdefault(expert, []).append((start, max(start, end_s)))
    return spans


def draw_timeline(
    records: Sequence[RequestRecord], switches: Sequence[SwitchRecord], *, experts: Sequence[str], colour: str
) -> Figure | None:
    """One arm, a lane an expert: spans of residency, switches on them, a tick for every request that used it."""
    lanes = {expert: i for i, expert in enumerate(experts)}
    used = [(r.scheduled_ns / NS_PER_S, lanes[r.expert_chosen]) for r in records if r.expert_chosen in lanes]
    if not used:
        return None
    end_s = max(max(r.scheduled_ns, r.finished_ns or 0) for r in records) / NS_PER_S
    figure, axes = new_figure(1.1 + 0.26 * len(experts))
    ax = axes[0, 0]
    spans_by_expert = residency_spans(switches, end_s)
    for record in records:
        # found resident, and no switch says since when: loaded before the start, and there to the end
        if record.residency == "resident" and record.expert_chosen is not None:
            spans_by_expert.setdefault(record.expert_chosen, [(0.0, end_s)])
    for expert, spans in spans_by_expert.items():
        if expert in lanes:
            widths = [(start, stop - start) for start, stop in spans]
            ax.broken_barh(widths, (lanes[expert] - 0.36, 0.72), facecolor=colour, alpha=0.32, linewidth=0)
    for switch in switches:
        if switch.expert in lanes:
            # a switch shorter than a pixel is drawn as one
            width = max(switch.duration_s, end_s / 400)
            span = [(switch.decided_ns / NS_PER_S, width)]
            ax.broken_barh(span, (lanes[switch.expert] - 0.36, 0.72), facecolor=colour, linewidth=0)
    times, heights = (np.array(column) for column in zip(*used, strict=True))
    # one broken line rather than a line a request: a tenth of the bytes
    gaps = np.full(len(times), np.nan)
    x, y = np.stack([times, times, gaps], axis=1), np.stack([heights - 0.2, heights + 0.2, gaps], axis=1)
    ax.plot(x.ravel(), y.ravel(), color=ROLES["text"][0], linewidth=0.6, alpha=0.8)
    _finish_timeline(ax, experts, end_s, colour)
    return figure


def _finish_timeline(ax: Axes, experts: Sequence[str], end_s: float, colour: str) -> None:
    ax.set_yticks(range(len(experts)), [clip(expert) for expert in experts])
    ax.set_ylim(len(experts) - 0.4, -0.6)
    ax.set_xlim(0, end_s or 1)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("time since the arm's start, s")
    handles = [
        Line2D([], [], color=ROLES["text"][0], marker="|", linestyle="none", markersize=8, label="request due"),
        Patch(facecolor=colour, label="switch"),
        Patch(facecolor=colour, alpha=0.32, label="resident"),
    ]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, handlelength=1.4)


def draw_evictions(switches: Sequence[SwitchRecord], *, experts: Sequence[str], role: str) -> Figure | None:
    """Expert × expert: how often the one beside made way for the one below; `None` without a switch."""
    pairs = Counter((gone, switch.expert) for switch in switches for gone in switch.evicted or (FREE,))
    if not pairs:
        return None
    known = [*experts, *sorted({name for pair in pairs for name in pair} - {*experts, FREE}), FREE]
    gone = [name for name in known if any(pair[0] == name for pair in pairs)]
    loaded = [name for name in known if any(pair[1] == name for pair in pairs)]
    table = pd.DataFrame([[pairs[row, column] for column in loaded] for row in gone], index=gone, columns=loaded)
    return draw_counts(table, x_label="loaded", y_label="evicted", role=role)
