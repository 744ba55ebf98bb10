"""Figures against the number of experts: our system in colour and solid, every baseline grey and dashed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.sweep.rows import SweepRow
from reports.figures.theme import CLASS_DASHES, ROLES, WIDE_IN, arm_colours, log_seconds, new_figure
from reports.slices import Slice, slices_of

__all__ = ["draw_hit_rates", "draw_scaling"]

GIB, MIB = 1 << 30, 1 << 20

DASHES: Sequence[Any] = ((0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1.2)), (0, (9, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")

CROSS: Mapping[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 6, "markeredgewidth": 1.6}

Read = Callable[[SweepRow], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """One quantity: its axis, how to read it, and the interval where there is one."""

    label: str
    read: Read
    low: Read | None = None
    high: Read | None = None
    seconds: bool = False


MISSES: Mapping[str, Read] = {
    "host": lambda row: row.ttft_host_p50_s,
    "disk": lambda row: row.ttft_disk_p50_s,
}
"""First tokens of requests whose expert was not on the device, by where it was."""

PANELS = (
    _Panel(
        label="output tokens/s",
        read=lambda row: row.output_tokens_per_s,
        low=lambda row: row.output_tokens_per_s_low,
        high=lambda row: row.output_tokens_per_s_high,
    ),
    _Panel(
        label="first token, median",
        read=lambda row: row.ttft_p50_s,
        low=lambda row: row.ttft_p50_s_low,
        high=lambda row: row.ttft_p50_s_high,
        seconds=True,
    ),
    _Panel(label="a switch", read=lambda row: _switch_s(row), seconds=True),
)
"""All but the memory, whose unit is the rows'."""


def draw_scaling(rows: Sequence[SweepRow], *, treatment: str) -> Figure | None:
    """Throughput, first token, switch and memory of each arm against experts; `None` if no cell was measured.

    The rows are of one budget, policy, popularity and load. A cell that memory did not hold is a cross on the axis;
    one whose figures must not be used is left out.
    """
    if not any(row.valid for row in rows):
        return None
    arms = sorted({row.arm for row in rows}, key=lambda arm: (arm != treatment, arm))
    figure, axes = new_figure(5.6, rows=2, columns=2, width_in=WIDE_IN)
    unit, unit_bytes = _memory_unit(rows)
    memory = _Panel(label=f"memory, {unit}", read=lambda row: _memory(row, unit_bytes))
    for panel, ax in zip((*PANELS, memory), axes.flat, strict=True):
        _draw_panel(ax, panel, rows, arms, treatment)
    budgets = {row.memory_budget_bytes / unit_bytes for row in rows}
    if any(row.nvml_bytes is not None for row in rows):
        for budget in budgets:
            axes[1, 1].axhline(budget, color=ROLES["limit"][0], linewidth=1.1, linestyle=(0, (4, 2)))
        axes[1, 1].set_ylim(top=1.06 * max(budgets))
    _draw_classes(axes[0, 1], [row for row in rows if row.arm == treatment and row.valid])
    figure.legend(handles=_handles(rows, arms, treatment), loc="outside upper left", ncols=3, handlelength=2.6)
    return figure


def draw_hit_rates(rows: Sequence[SweepRow]) -> Figure | None:
    """The hit rate against experts, with Belady's bound dotted; `None` if nothing was counted.

    A line for each popularity, policy, load and budget; the last two are named where there are several.
    """
    counted = [row for row in rows if row.valid and row.hit_rate is not None]
    if not counted:
        return None
    figure, axes = new_figure(4.2, width_in=WIDE_IN)
    ax = axes[0, 0]
    roles = ("treatment", "treatment-2", "treatment-3", "baseline")
    # loads keep their order: as words 16 would stand before 4
    series = sorted(slices_of(counted), key=lambda part: (part.popularity, part.policy, part.budget_bytes))
    for number, line in enumerate(series):
        part = sorted(line.rows, key=lambda row: row.experts)
        style: Mapping[str, Any] = {"color": ROLES[roles[number % len(roles)]][0], "marker": MARKERS[number % 6]}
        x = [row.experts for row in part]
        ax.plot(x, [_percent(row.hit_rate) for row in part], label=_series_label(line, series), markersize=4, **style)
        bound = [(row.experts, row.belady_hit_rate) for row in part if row.belady_hit_rate is not None]
        if bound:
            bx, by = zip(*bound, strict=True)
            ax.plot(bx, [100 * y for y in by], color=style["color"], linestyle=CLASS_DASHES["disk"], linewidth=1.2)
    _expert_axis(ax, counted)
    ax.set_ylabel("found resident, %")
    ax.set_ylim(0, 103)
    handles = [*ax.get_legend_handles_labels()[0]]
    if any(row.belady_hit_rate is not None for row in counted):
        bound_line: Mapping[str, Any] = {"color": ROLES["muted"][0], "linestyle": CLASS_DASHES["disk"]}
        handles.append(Line2D([], [], label="Belady's bound", **bound_line))
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3)
    return figure


def _series_label(part: Slice, series: Sequence[Slice]) -> str:
    """Popularity and policy, and what else tells this line from another."""
    words = [part.popularity, part.policy]
    words += [part.load] if len({other.load for other in series}) > 1 else []
    words += [f"{part.budget_bytes / GIB:g} GiB"] if len({other.budget_bytes for other in series}) > 1 else []
    return ", ".join(words)


def _draw_panel(ax: Axes, panel: _Panel, rows: Sequence[SweepRow], arms: Sequence[str], treatment: str) -> None:
    for arm in reversed(arms):
        style = _style(arms, arm, treatment)
        part = sorted((row for row in rows if row.arm == arm and row.valid), key=lambda row: row.experts)
        points = [(row, value) for row in part if (value := panel.read(row)) is not None]
        if points:
            x, y = [row.experts for row, _ in points], [value for _, value in points]
            ax.plot(x, y, markersize=4.5, linewidth=1.6, **style)
            _draw_intervals(ax, panel, points, style["color"])
    _expert_axis(ax, rows)
    ax.set_ylabel(panel.label)
    if panel.seconds:
        log_seconds(ax, "y")
    else:
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    _draw_lost(ax, rows)


def _draw_classes(ax: Axes, rows: Sequence[SweepRow]) -> None:
    """The first tokens of our system's misses, thinner, in the dashes of their class."""
    for residency, read in MISSES.items():
        points = sorted((row.experts, value) for row in rows if (value := read(row)) is not None)
        if points:
            x, y = zip(*points, strict=True)
            style: Mapping[str, Any] = {"linestyle": CLASS_DASHES[residency], "linewidth": 1.2}
            ax.plot(x, y, color=ROLES["treatment"][0], marker=".", **style)
            ax.annotate(f"from {residency}", (x[-1], y[-1]), xytext=(0, 14), textcoords="offset points", ha="right")


def _draw_lost(ax: Axes, rows: Sequence[SweepRow]) -> None:
    """Crosses on the axis itself, whatever its scale."""
    lost = sorted({row.experts for row in rows if row.outcome in ("does-not-fit", "oom")})
    # an empty line would stand at the figure's corner, and stretch the layout to it
    if lost:
        place: Mapping[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        ax.plot(lost, [0.03] * len(lost), color=ROLES["limit"][0], **CROSS, **place)


def _draw_intervals(ax: Axes, panel: _Panel, points: Sequence[tuple[SweepRow, float]], colour: str) -> None:
    if panel.low is None or panel.high is None:
        return
    for row, _ in points:
        low, high = panel.low(row), panel.high(row)
        if low is not None and high is not None:
            ax.plot([row.experts] * 2, [low, high], color=colour, linewidth=1.0)


def _style(arms: Sequence[str], arm: str, treatment: str) -> dict[str, Any]:
    place = [name for name in arms if name != treatment].index(arm) if arm != treatment else 0
    return {
        "color": arm_colours(arms, treatment)[arm],
        "linestyle": "-" if arm == treatment else DASHES[place % len(DASHES)],
        "marker": MARKERS[0] if arm == treatment else MARKERS[1 + place % (len(MARKERS) - 1)],
    }


def _handles(rows: Sequence[SweepRow], arms: Sequence[str], treatment: str) -> list[Line2D]:
    handles = [Line2D([], [], markersize=4.5, label=arm, **_style(arms, arm, treatment)) for arm in arms]
    if any(row.outcome in ("does-not-fit", "oom") for row in rows):
        arms_lost = sorted({row.arm for row in rows if row.outcome in ("does-not-fit", "oom")})
        label = f"{', '.join(arms_lost)}: does not fit"
        handles.append(Line2D([], [], color=ROLES["limit"][0], label=label, **CROSS))
    return handles


def _expert_axis(ax: Axes, rows: Sequence[SweepRow]) -> None:
    numbers = sorted({row.experts for row in rows})
    ax.set_xscale("log", base=2)
    # 24 between 16 and 32 has no room for its number
    shown = [n for n in numbers if n & (n - 1) == 0] or numbers
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(numbers[0] / 1.25, numbers[-1] * 1.25)
    ax.set_xlabel("experts")


def _memory_unit(rows: Sequence[SweepRow]) -> tuple[str, int]:
    """The unit of the memory's axis and its bytes: GiB, or MiB where nothing takes so much as one GiB."""
    most = max((_memory(row, 1) or 0.0 for row in rows if row.valid), default=0.0)
    return ("GiB", GIB) if most >= GIB else ("MiB", MIB)


def _memory(row: SweepRow, unit_bytes: int) -> float | None:
    """What a cell took by NVML, else its weights by the engine's own count, in units."""
    nbytes = row.nvml_bytes if row.nvml_bytes is not None else row.weight_bytes
    return None if nbytes is None else nbytes / unit_bytes


def _switch_s(row: SweepRow) -> float | None:
    """How long the device is busy with one; elsewhere, how long a request waits for one."""
    return row.copy_mean_s if row.copy_mean_s is not None else row.switch_p50_s


def _percent(share: float | None) -> float:
    assert share is not None
    return 100 * share
