"""How long requests took: empirical distributions on a log axis, failures counted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.theme import CLASS_DASHES, ROLES, arm_colours, log_seconds, new_figure

__all__ = ["draw_latency_by_arm", "draw_latency_by_class"]

# a log axis has no place for zero: a clock's tick is the least there is
LEAST_S = 1e-6


def draw_latency_by_arm(
    requests: pd.DataFrame, column: str, *, arms: Sequence[str], treatment: str | None, label: str
) -> Figure | None:
    """The share of each arm's scheduled requests done within a time; `None` if no request has that time.

    A request without the time (failed, never sent) stays in the denominator, so its arm's curve ends below 100 %.
    The limit of the requests, if they carry one and the same, is a vertical line.
    """
    if requests[column].notna().sum() == 0:
        return None
    colours = arm_colours(arms, treatment)
    figure, axes = new_figure(2.9)
    ax = axes[0, 0]
    for arm in reversed(arms):
        part = requests[requests["arm"] == arm]
        _draw_steps(ax, part[column], len(part), color=colours[arm], label=arm)
    _draw_limit(ax, requests.get(f"slo_{column}"))
    _finish(ax, label, requests[column])
    handles = ax.get_legend_handles_labels()[0]
    lines = sorted(handles, key=lambda line: [*arms, line.get_label()].index(line.get_label()))
    ax.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=4)
    return figure


def draw_latency_by_class(
    requests: pd.DataFrame, column: str, *, arms: Sequence[str], treatment: str | None, label: str
) -> Figure | None:
    """As by arm, with one line for each residency class: dashes tell the class, colour the arm."""
    present = requests[requests[column].notna() & requests["residency"].notna()]
    if present.empty:
        return None
    colours = arm_colours(arms, treatment)
    figure, axes = new_figure(3.3)
    ax = axes[0, 0]
    handles = []
    for arm in arms:
        for residency, dashes in CLASS_DASHES.items():
            part = requests[(requests["arm"] == arm) & (requests["residency"] == residency)]
            if part[column].notna().any():
                style: Mapping[str, Any] = {"color": colours[arm], "linestyle": dashes}
                _draw_steps(ax, part[column], len(part), **style)
                handles.append(Line2D([], [], label=f"{arm}, {residency} ({len(part):,})", **style))
    _draw_limit(ax, requests.get(f"slo_{column}"))
    handles += ax.get_legend_handles_labels()[0]
    _finish(ax, label, requests[column])
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.45, -0.24), ncols=2, handlelength=2.6)
    return figure


def _draw_steps(ax: Axes, values: pd.Series, scheduled: int, **style: Any) -> None:
    """The empirical distribution of `values` among `scheduled` requests."""
    ordered = np.sort(values.dropna().to_numpy(dtype=float))
    if len(ordered) == 0:
        return
    ordered = np.maximum(ordered, LEAST_S)
    share = np.arange(1, len(ordered) + 1) / scheduled
    ax.plot(
        np.concatenate([ordered[:1], ordered]),
        np.concatenate([[0.0], share]),
        drawstyle="steps-post",
        linewidth=1.8,
        **style,
    )


def _draw_limit(ax: Axes, limits: pd.Series | None) -> None:
    if limits is None:
        return
    distinct = limits.dropna().unique()
    if len(distinct) == 1:
        ax.axvline(float(distinct[0]), color=ROLES["limit"][0], linewidth=1.2, linestyle=(0, (4, 2)), label="SLO")


def _finish(ax: Axes, label: str, values: pd.Series) -> None:
    # a few values near zero would push all others into a corner: their curve enters at its height
    low = max(float(values.quantile(0.01)) / 2, LEAST_S)
    if ax.get_xlim()[0] < low:
        ax.set_xlim(left=low)
    log_seconds(ax)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel(f"{label} (log scale)")
    ax.set_ylabel("share of requests")
