"""How each expert fared: right answers, waiting, and where the router sent its requests."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.grid import clip, draw_counts
from reports.figures.theme import arm_colours, log_seconds, new_figure

__all__ = ["draw_accuracy", "draw_routing", "draw_ttft"]

_MARKERS = ("o", "s", "D", "^")


def draw_accuracy(experts: pd.DataFrame, *, arms: Sequence[str], treatment: str | None) -> Figure | None:
    """Accuracy of every expert's requests with its interval, a marker an arm; `None` without verdicts."""
    ax = _draw_by_expert(experts, "accuracy", 100.0, arms, treatment)
    if ax is None:
        return None
    # a position, not a length: the axis may begin where the values do
    floor = 10 * int(float(experts["accuracy_low"].min()) * 10)
    ax.set_xlim(floor - 1, 101)
    ax.set_xlabel("right answers, % [95 % interval]")
    return ax.get_figure(root=True)


def draw_ttft(experts: pd.DataFrame, *, arms: Sequence[str], treatment: str | None) -> Figure | None:
    """Median time to first token of every expert's requests with its interval, on a log axis."""
    ax = _draw_by_expert(experts, "ttft_s_p50", 1.0, arms, treatment)
    if ax is None:
        return None
    log_seconds(ax)
    ax.set_xlabel("median time to first token [95 % interval] (log scale)")
    return ax.get_figure(root=True)


def _draw_by_expert(
    experts: pd.DataFrame, column: str, scale: float, arms: Sequence[str], treatment: str | None
) -> Axes | None:
    """Axes with a lane an expert and a marker an arm; bounds that are not known are not drawn."""
    if experts.empty or experts[column].notna().sum() == 0:
        return None
    names = sorted(experts["expert"].unique())
    colours = arm_colours(arms, treatment)
    _, axes = new_figure(1.2 + 0.3 * len(names))
    ax: Axes = axes[0, 0]
    for k, arm in enumerate(arms):
        part = experts[(experts["arm"] == arm) & experts[column].notna()]
        lanes = [names.index(name) + 0.32 * (k - (len(arms) - 1) / 2) for name in part["expert"]]
        low, high = (part[f"{column}_{end}"].to_numpy(dtype=float) * scale for end in ("low", "high"))
        ax.hlines(lanes, low, high, color=colours[arm], linewidth=1.6)
        value = part[column].to_numpy(dtype=float) * scale
        ax.plot(value, lanes, _MARKERS[k % len(_MARKERS)], color=colours[arm], markersize=5, label=arm)
    ax.set_yticks(range(len(names)), [clip(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return ax


def draw_routing(confusion: pd.DataFrame, *, role: str) -> Figure | None:
    """Expert wanted against expert chosen, shaded by row; `None` if the trace names no expert."""
    if confusion.empty:
        return None
    return draw_counts(confusion, x_label="chosen", y_label="wanted", role=role, by_row=True)
