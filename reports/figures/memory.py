"""Where the bytes are, and what the machine did over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.units import format_bytes
from reports.figures.grid import clip
from reports.figures.theme import PART_COLOURS, ROLES, arm_colours, new_figure

__all__ = ["LANES", "Lane", "MemoryBar", "draw_lanes", "draw_memory"]

_MIB = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBar:
    """One bar: its label, its parts in bytes, and whether it is counted rather than measured."""

    label: str
    parts: Mapping[str, int]
    computed: bool = False


def draw_memory(bars: Sequence[MemoryBar], *, limits: Mapping[str, int]) -> Figure | None:
    """Horizontal bars of weight bytes by part; `limits` are vertical lines with their names.

    A computed bar (what whole models would take) is hatched: nobody measured it.
    """
    if not bars:
        return None
    figure, axes = new_figure(1.25 + 0.48 * len(bars))
    ax = axes[0, 0]
    widest = max([sum(bar.parts.values()) for bar in bars] + list(limits.values())) / _MIB
    for i, bar in enumerate(bars):
        _draw_bar(ax, bar, i)
    for name, limit in limits.items():
        ax.axvline(limit / _MIB, color=ROLES["limit"][0], linewidth=1.2, linestyle=(0, (4, 2)), label=name)
    ax.set_yticks(range(len(bars)), [f"{clip(bar.label)}\n{format_bytes(sum(bar.parts.values()))}" for bar in bars])
    ax.set_ylim(len(bars) - 0.45, -0.55)
    ax.set_xlim(0, widest * 1.03)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("weights in memory, MiB")
    _name_parts(ax, bars)
    return figure


def _draw_bar(ax: Axes, bar: MemoryBar, lane: int) -> None:
    left = 0.0
    for part, size in bar.parts.items():
        colour = ROLES[PART_COLOURS.get(part, "baseline-2")][0]
        style: dict[str, Any] = {"facecolor": colour}
        if bar.computed:
            style = {"facecolor": "none", "edgecolor": colour, "hatch": "////"}
        ax.barh(lane, size / _MIB, left=left, height=0.56, linewidth=0.8, **style)
        left += size / _MIB


def _name_parts(ax: Axes, bars: Sequence[MemoryBar]) -> None:
    handles = list(ax.get_legend_handles_labels()[0])
    parts = dict.fromkeys(part for bar in bars if not bar.computed for part in bar.parts)
    for part in parts:
        colour = ROLES[PART_COLOURS.get(part, "baseline-2")][0]
        handles.append(Patch(facecolor=colour, label=part.replace("_", " ")))
    if any(bar.computed for bar in bars):
        handles.append(Patch(facecolor="none", edgecolor=ROLES["muted"][0], hatch="////", label="by arithmetic"))
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, handlelength=1.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One quantity of the samples: its column, what the axis says, and what to multiply it with."""

    column: str
    label: str
    scale: float


LANES = (
    Lane(column="process_rss_bytes", label="engine\nRSS, MiB", scale=1 / _MIB),
    Lane(column="engine_cpu_share", label="engine\nCPU, %", scale=100),
    Lane(column="client_cpu_share", label="client\nCPU, %", scale=100),
    Lane(column="loop_lag_ns", label="client loop\nlag, ms", scale=1e-6),
    Lane(column="in_flight", label="requests\nin flight", scale=1),
    Lane(column="gpu_memory_bytes", label="GPU\nmemory, MiB", scale=1 / _MIB),
    Lane(column="gpu_utilisation", label="GPU\nbusy, %", scale=100),
    Lane(column="gpu_power_w", label="GPU\npower, W", scale=1),
)
"""Quantities drawn over time, as far as the run sampled them."""


def draw_lanes(samples: pd.DataFrame, *, arms: Sequence[str], treatment: str | None) -> Figure | None:
    """One lane for each quantity that was sampled, all arms over the same time axis from their own start."""
    lanes = [lane for lane in LANES if lane.column in samples and samples[lane.column].notna().any()]
    if not lanes:
        return None
    colours = arm_colours(arms, treatment)
    figure, axes = new_figure(0.9 + 0.85 * len(lanes), rows=len(lanes), sharex=True)
    for lane, ax in zip(lanes, axes[:, 0], strict=True):
        for arm in reversed(arms):
            part = samples[(samples["arm"] == arm) & samples[lane.column].notna()]
            values = part[lane.column].to_numpy(dtype=float) * lane.scale
            ax.plot(part["t_s"], values, color=colours[arm], linewidth=1.1, label=arm)
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.set_ylabel(lane.label, fontsize=9)
    axes[-1, 0].set_xlabel("time since the arm's start, s")
    handles = axes[0, 0].get_legend_handles_labels()[0][::-1]
    axes[0, 0].legend(handles=handles, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return figure
