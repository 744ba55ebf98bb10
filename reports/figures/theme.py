"""One look for every figure: the baseline grey, the treatment coloured, and the same picture in light and dark.

A figure is drawn once with the light colours. Each role has a colour of its own, so that the report can exchange
the colours for CSS variables (`reports.figures.svg`) and the reader's preference decides.
Colour says which arm; dashes say which residency class: neither alone carries meaning for those who see few colours.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, NullFormatter

from harness.units import format_seconds

__all__ = [
    "CLASS_DASHES",
    "PART_COLOURS",
    "ROLES",
    "WIDE_IN",
    "WIDTH_IN",
    "arm_colours",
    "drawing",
    "log_seconds",
    "new_figure",
]

WIDTH_IN = 5.0
"""Width of a figure: half of a wide page, all of a narrow one."""

WIDE_IN = 7.6
"""Width of a figure of several panels, or one that stands beside such: on a page its type is as large as theirs."""

MOST_DIGITS = 4
"""Of a tick."""

ROLES: Mapping[str, tuple[str, str]] = {
    "text": ("#1c2430", "#e7eaf0"),
    "muted": ("#5b6573", "#a3adbb"),
    "grid": ("#dfe3e9", "#343c48"),
    "treatment": ("#3451d1", "#8fa5ff"),
    "treatment-2": ("#0f8577", "#4fd1bd"),
    "treatment-3": ("#a8459c", "#e59adb"),
    "baseline": ("#868e99", "#8d96a3"),
    "baseline-2": ("#b3b9c2", "#5f6875"),
    "on-treatment": ("#fefefe", "#10151d"),
    "on-baseline": ("#0f141b", "#10151d"),
    "limit": ("#c2370b", "#ff9a70"),
}
"""Colour of each role: on a light page, on a dark one. Light colours are pairwise different."""

CLASS_DASHES: Mapping[str, Any] = {"resident": "-", "host": (0, (5, 2)), "disk": (0, (1, 1.4))}
"""Line style of each residency class."""

PART_COLOURS: Mapping[str, str] = {
    "base": "treatment",
    "codes": "treatment-2",
    "slots": "treatment-2",
    "dense_cache": "treatment-3",
    "experts": "baseline",
    "router": "baseline-2",
}
"""Role of each part of the weights."""

_RC: Mapping[str, Any] = {
    "svg.hashsalt": "meswitch-report",
    "svg.fonttype": "none",
    # names come from users: a dollar sign is a dollar sign
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
}


def arm_colours(arms: Sequence[str], treatment: str | None) -> dict[str, str]:
    """Light colour of each arm: our system in colour, the others in greys; grey always means baseline."""
    greys = ("baseline", "baseline-2")
    others = [arm for arm in arms if arm != treatment]
    colours = {arm: ROLES[greys[i % len(greys)]][0] for i, arm in enumerate(others)}
    if treatment is not None:
        colours[treatment] = ROLES["treatment"][0]
    return colours


@contextmanager
def drawing() -> Iterator[None]:
    """A scope in which figures are drawn in the house style; leaves matplotlib's own settings as they were."""
    text, muted, grid = (ROLES[role][0] for role in ("text", "muted", "grid"))
    colours: dict[str, Any] = {
        "text.color": text,
        "axes.labelcolor": text,
        "axes.titlecolor": text,
        "axes.edgecolor": muted,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelcolor": text,
        "ytick.labelcolor": text,
        "grid.color": grid,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "patch.edgecolor": "none",
        "patch.force_edgecolor": False,
    }
    settings: dict[Any, Any] = {**_RC, **colours}
    with sns.axes_style("whitegrid"), matplotlib.rc_context(settings):
        yield


def new_figure(height_in: float, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Figure, Any]:
    """A figure of the page's width and its axes as `[rows, columns]`, without the upper and right frame."""
    # without pyplot: no global list of figures, no window system, nothing to close
    figure = Figure(figsize=(layout.pop("width_in", WIDTH_IN), height_in))
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(visible=True, linewidth=0.7)
        ax.set_axisbelow(True)
    return figure, axes


def log_seconds(ax: Axes, which: Literal["x", "y"] = "x") -> None:
    """Make an axis of `ax` logarithmic, with ticks that read as durations at 1, 2 and 5."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 150 else (1.0, 3.0) if high / low < 1500 else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
    axis.set_major_formatter(_DurationFormatter())
    axis.set_minor_formatter(NullFormatter())


class _DurationFormatter(Formatter):
    """Durations with as few digits as tell an axis's ticks truly: a short axis has 8.5 ms beside 9."""

    def __init__(self) -> None:
        self._digits = 1

    def __call__(self, x: float, pos: int | None = None) -> str:
        return format_seconds(x, digits=self._digits)

    def set_locs(self, locs: Any) -> None:
        super().set_locs(locs)
        enough = (n for n in range(1, MOST_DIGITS) if all(math.isclose(float(f"{x:.{n}g}"), x) for x in locs))
        self._digits = next(enough, MOST_DIGITS)
