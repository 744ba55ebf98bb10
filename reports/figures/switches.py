"""What one switch costs: the copy on the device, the first token that waits for it, and the least that a copy takes."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.switching.rows import SwitchRow
from reports.figures.theme import ROLES, WIDE_IN, log_seconds, new_figure

__all__ = ["draw_switches"]

TREATMENT = "meswitch"


def draw_switches(rows: Sequence[SwitchRow], *, cases: Mapping[str, str]) -> Figure | None:
    """A lane for each arm and case that moved anything, on a logarithmic axis of time; `None` if none did.

    Args:
        cases: words for the cases.
    """
    moved = [(row, row.copy_ms) for row in rows if row.valid and row.copy_ms is not None]
    if not moved:
        return None
    figure, axes = new_figure(1.4 + 0.55 * len(moved), width_in=WIDE_IN)
    ax = axes[0, 0]
    for lane, (row, copy_ms) in enumerate(moved):
        is_ours = row.arm == TREATMENT
        colour = ROLES["treatment" if is_ours else "baseline"][0]
        ax.plot(copy_ms / 1e3, lane, marker="o", color=colour, markersize=7, linestyle="none")
        if row.copy_floor_ms is not None:
            ax.plot(row.copy_floor_ms / 1e3, lane, marker="|", color=ROLES["limit"][0], markersize=15, linestyle="none")
        # a penalty of nothing, or less, has no place on this axis: the table has it
        if row.ttft_penalty_ms is not None and row.ttft_penalty_ms > 0:
            low, high = row.interval or (None, None)
            if low is not None and high is not None and low > 0:
                ax.plot(
                    [low / 1e3, high / 1e3],
                    [lane, lane],
                    color=colour,
                    linewidth=1.4,
                    linestyle="-" if is_ours else "--",
                )
            ax.plot(row.ttft_penalty_ms / 1e3, lane, marker="D", color=colour, markersize=6, fillstyle="none")
    log_seconds(ax)
    ax.set_xlabel("time (log scale)")
    ax.set_yticks(range(len(moved)), [f"{row.arm},\n{cases[row.case]}" for row, _ in moved])
    ax.set_ylim(len(moved) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.legend(handles=_handles(), loc="lower center", bbox_to_anchor=(0.35, 1.0), ncols=3)
    return figure


def _handles() -> list[Line2D]:
    muted = ROLES["muted"][0]
    return [
        Line2D([], [], marker="o", color=muted, linestyle="none", label="copy on the device, median"),
        Line2D([], [], marker="D", color=muted, fillstyle="none", linestyle="none", label="added to the first token"),
        Line2D(
            [], [], marker="|", color=ROLES["limit"][0], linestyle="none", markersize=12, label="least for its bytes"
        ),
    ]
