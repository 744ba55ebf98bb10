"""How far a compressed expert is from the expert, against the bits that it takes."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from reports.figures.theme import ROLES, new_figure

__all__ = ["draw_rate_distortion"]

_BITS = (0.3, 0.5, 0.75, 1, 1.5, 2, 3, 4, 8)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">")


def draw_rate_distortion(arms: pd.DataFrame, *, title: str) -> Figure | None:
    """KL to the expert over bits of a linear weight, both on log axes, with intervals and the front; `None` of no arms.

    Args:
        arms: one row each, with `label` (the codec as the legend names it), `bits`, `kl`, `low`, `high`, `on_front`.
        title: over the axes.
    """
    arms = arms[(arms["bits"] > 0) & (arms["kl"] > 0)]
    if arms.empty:
        return None
    figure, axes = new_figure(4.6, width_in=7.5)
    ax: Axes = axes[0, 0]
    front = arms[arms["on_front"]].sort_values("bits")
    ax.plot(front["bits"], front["kl"], color=ROLES["muted"][0], linewidth=1.2, zorder=1, label="front")
    labels = sorted(arms["label"].unique())
    colours = sns.color_palette("colorblind", len(labels))
    for i, label in enumerate(labels):
        part = arms[arms["label"] == label]
        # resamples of what is nearly exact may fall below 0, where a log axis ends
        low = part["low"].clip(lower=part["kl"] / 100)
        ax.vlines(part["bits"], low, part["high"], color=colours[i], linewidth=1.2, zorder=2)
        marker = _MARKERS[i % len(_MARKERS)]
        ax.scatter(part["bits"], part["kl"], color=colours[i], marker=marker, s=26, zorder=3, label=label)
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
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
