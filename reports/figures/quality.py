"""How many answers were right, by expert, and where the router sent them."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from reports.figures.grid import clip, draw_counts
from reports.figures.theme import arm_colours, new_figure

__all__ = ["draw_accuracy", "draw_routing"]

_MARKERS = ("o", "s", "D", "^")


def draw_accuracy(experts: pd.DataFrame, *, arms: Sequence[str], treatment: str | None) -> Figure | None:
    """Accuracy of every expert's requests with its interval, a marker an arm; `None` without verdicts."""
    if experts.empty or experts["accuracy"].notna().sum() == 0:
        return None
    names = sorted(experts["expert"].unique())
    colours = arm_colours(arms, treatment)
    figure, axes = new_figure(1.2 + 0.3 * len(names))
    ax = axes[0, 0]
    for k, arm in enumerate(arms):
        part = experts[(experts["arm"] == arm) & experts["accuracy"].notna()]
        lanes = [names.index(name) + 0.32 * (k - (len(arms) - 1) / 2) for name in part["expert"]]
        share = part["accuracy"] * 100
        ax.hlines(lanes, part["accuracy_low"] * 100, part["accuracy_high"] * 100, color=colours[arm], linewidth=1.6)
        ax.plot(share, lanes, _MARKERS[k % len(_MARKERS)], color=colours[arm], markersize=5, label=arm)
    ax.set_yticks(range(len(names)), [clip(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    # a position, not a length: the axis may begin where the values do
    floor = 10 * int(float(experts["accuracy_low"].min()) * 10)
    ax.set_xlim(floor - 1, 101)
    ax.set_xlabel("right answers, % of scheduled requests [95 % interval]")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return figure


def draw_routing(confusion: pd.DataFrame, *, role: str) -> Figure | None:
    """Expert wanted against expert chosen, shaded by row; `None` if the trace names no expert."""
    if confusion.empty:
        return None
    return draw_counts(confusion, x_label="chosen", y_label="wanted", role=role, by_row=True)
