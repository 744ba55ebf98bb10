"""How far a compressed expert is from the expert, against the bits that it takes."""

from math import ceil

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from reports.figures.theme import ROLES, new_figure

__all__ = ["draw_rate_distortion"]

_BITS = (0.3, 0.5, 0.75, 1, 1.5, 2, 3, 4, 8)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_FLOOR = 1e-6
"""KL below this is that of rounding: such arms are drawn on it."""
_LINE_IN, _COLUMNS = 0.22, 3
"""Height of a line of the legend, and its columns."""


def draw_rate_distortion(arms: pd.DataFrame, *, title: str) -> Figure | None:
    """KL to the expert over bits of a linear weight, both on log axes, with intervals and the front; `None` of no arms.

    Args:
        arms: one row each, with `label` (the codec as the legend names it, its name the first word), `bits`, `kl`,
            `low`, `high`, `on_front`.
        title: over the axes.
    """
    if arms.empty:
        return None
    arms = arms.assign(**{name: arms[name].clip(lower=_FLOOR) for name in ("kl", "low", "high")})
    labels = sorted(arms["label"].unique())
    # the legend stands below: beside the axes it would take the width that bits need
    figure, axes = new_figure(4.6 + _LINE_IN * ceil(len(labels) / _COLUMNS), width_in=8.0)
    ax: Axes = axes[0, 0]
    front = arms[arms["on_front"]].sort_values("bits")
    ax.plot(front["bits"], front["kl"], color=ROLES["muted"][0], linewidth=1.2, zorder=1, label="front")
    codecs = list(dict.fromkeys(label.split()[0] for label in labels))
    colours = dict(zip(codecs, sns.husl_palette(len(codecs), l=0.5), strict=True))
    for label in labels:
        part, codec = arms[arms["label"] == label], label.split()[0]
        # a colour for each codec, a marker for each of its forms
        form = [other for other in labels if other.split()[0] == codec].index(label)
        ax.vlines(part["bits"], part["low"], part["high"], color=colours[codec], linewidth=1.2, zorder=2)
        marker = _MARKERS[form % len(_MARKERS)]
        ax.scatter(part["bits"], part["kl"], color=colours[codec], marker=marker, s=26, zorder=3, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator([bits for bits in _BITS if bits <= 1.2 * arms["bits"].max()]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda bits, _: f"{bits:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda kl, _: f"{kl:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("bits of a linear weight, everything counted (log scale)")
    ax.set_ylabel("KL to the expert, nats of a token (log scale)")
    ax.set_title(title)
    figure.legend(loc="outside lower center", ncols=_COLUMNS)
    return figure
