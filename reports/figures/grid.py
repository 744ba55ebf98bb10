"""A table of counts as a picture: darker is more, the number stands in the cell."""

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.figures.theme import ROLES, new_figure

__all__ = ["clip", "draw_counts"]

_LONGEST_NAME = 18


def clip(name: str) -> str:
    """`name`, shortened in the middle so that its beginning and end stay."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:10]}…{name[-7:]}"


def draw_counts(table: pd.DataFrame, *, x_label: str, y_label: str, role: str, by_row: bool = False) -> Figure:
    """Cells shaded by count, or by the share of their row if `by_row`; empty cells stay blank.

    The shade is the role's colour at some opacity, not a colour map, so that it fits a light and a dark page.
    """
    counts = table.to_numpy(dtype=int)
    rows, columns = counts.shape
    figure, axes = new_figure(min(7.0, 1.3 + 0.34 * rows))
    ax = axes[0, 0]
    ax.grid(visible=False)
    full = np.maximum(counts.sum(axis=1) if by_row else np.full(rows, counts.max()), 1)
    for i, j in zip(*np.nonzero(counts), strict=True):
        share = float(counts[i, j] / full[i])
        face = to_rgba(ROLES[role][0], 0.12 + 0.88 * share)
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, linewidth=0))
        ink = ROLES[f"on-{role.removesuffix('-2')}" if share > 0.5 else "text"][0]
        ax.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=ink, fontsize=8.5 if columns > 10 else 9.5)
    ax.set_xticks(range(columns), [clip(str(name)) for name in table.columns], rotation=40, ha="right")
    ax.set_yticks(range(rows), [clip(str(name)) for name in table.index])
    ax.set_xlim(-0.5, columns - 0.5)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.tick_params(length=0)
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    return figure
