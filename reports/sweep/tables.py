"""The tables of a sweep's page: numbers already turned into text."""

from collections.abc import Sequence

from harness.statistics import METHODS
from harness.summary import Estimate
from harness.sweep.fit import FitRow
from harness.sweep.rows import SweepRow
from harness.units import (
    format_bytes,
    format_count,
    format_interval,
    format_number,
    format_seconds,
    format_share,
)
from reports.rows import Cell

__all__ = ["CELL_HEADINGS", "FIT_HEADINGS", "METHOD_LINES", "cell_cells", "fit_cells", "markdown"]

CELL_HEADINGS = (
    "arm",
    "experts",
    "slots",
    "outcome",
    "n",
    "output tokens/s",
    "requests/s",
    "TTFT p50",
    "TTFT p99",
    "resident",
    "host",
    "disk",
    "TPOT p50",
    "switch p50",
    "copy",
    "hits",
    "Belady",
    "memory",
    "shared",
)
FIT_HEADINGS = ("arm", "popularity", "load", "figure", "cells", "experts", "one more expert", "with none")

METHOD_LINES = tuple(f"{name.replace('_', ' ')}: {words}" for name, words in METHODS.items())


def cell_cells(row: SweepRow) -> list[Cell]:
    """A row of `CELL_HEADINGS`."""
    outcome = row.outcome if row.valid or row.outcome != "ok" else "not valid"
    if outcome == "ok" and not row.settled:
        outcome = "not settled"
    return [
        Cell(row.arm),
        Cell(format_count(row.experts)),
        Cell(format_count(row.slots)),
        Cell(outcome),
        Cell(format_count(row.n)),
        _cell(row.output_tokens_per_s, row.output_tokens_per_s_low, row.output_tokens_per_s_high),
        _cell(row.requests_per_s, row.requests_per_s_low, row.requests_per_s_high),
        _cell(row.ttft_p50_s, row.ttft_p50_s_low, row.ttft_p50_s_high, kind="seconds"),
        _cell(row.ttft_p99_s, row.ttft_p99_s_low, row.ttft_p99_s_high, kind="seconds"),
        Cell(format_seconds(row.ttft_resident_p50_s)),
        Cell(format_seconds(row.ttft_host_p50_s)),
        Cell(format_seconds(row.ttft_disk_p50_s)),
        Cell(format_seconds(row.tpot_p50_s)),
        Cell(format_seconds(row.switch_p50_s)),
        Cell(format_seconds(row.copy_mean_s)),
        Cell(format_share(row.hit_rate)),
        Cell(format_share(row.belady_hit_rate)),
        Cell(format_bytes(row.nvml_bytes if row.nvml_bytes is not None else row.weight_bytes)),
        Cell(format_count(row.shared_images)),
    ]


def fit_cells(row: FitRow) -> list[Cell]:
    """A row of `FIT_HEADINGS`."""
    load = f"{row.in_flight} in flight" if row.in_flight is not None else f"{row.rate_per_s:g}/s"
    name, _, unit = row.metric.rpartition("_")
    unit = {"mib": "MiB", "ms": "ms"}[unit]
    slope = Estimate(value=row.per_expert, low=row.per_expert_low, high=row.per_expert_high)
    return [
        Cell(row.arm),
        Cell(row.popularity),
        Cell(load),
        Cell(f"{name}, {unit}"),
        Cell(format_count(row.cells)),
        Cell(f"{row.experts_least} to {row.experts_most}"),
        Cell(format_number(row.per_expert), format_interval(slope, "number")),
        Cell(format_number(row.at_none)),
    ]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The table for a README."""
    lines = [headings, ["---"] * len(headings)]
    lines += [[f"{cell.value} {cell.interval}".strip() for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: float | None, low: float | None, high: float | None, *, kind: str = "number") -> Cell:
    shown = format_seconds(value) if kind == "seconds" else format_number(value)
    estimate = None if value is None else Estimate(value=value, low=low, high=high)
    return Cell(shown, format_interval(estimate, kind))
