"""What one more expert costs: straight lines through the cells in which every expert is on the device."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics import RESAMPLES, Floats
from harness.sweep.rows import SweepRow

__all__ = ["METRICS", "FitRow", "fit_rows"]

LEAST_CELLS = 3
LEAST_FOR_INTERVAL = 4
MIB = 1 << 20

METRICS: Mapping[str, Callable[[SweepRow], float | None]] = {
    "nvml_mib": lambda row: None if row.nvml_bytes is None else row.nvml_bytes / MIB,
    "weights_mib": lambda row: None if row.weight_bytes is None else row.weight_bytes / MIB,
    "tpot_ms": lambda row: None if row.tpot_p50_s is None else row.tpot_p50_s * 1e3,
    "ttft_ms": lambda row: None if row.ttft_p50_s is None else row.ttft_p50_s * 1e3,
}
"""Figures that are fitted against the number of experts; the unit is in the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """A line of one figure.

    Attributes:
        cells: it goes through, least squares; experts_least, experts_most: of them.
        per_expert: slope, with the 95 % interval of a bootstrap over the cells; `None` with fewer than four.
        at_none: where the line meets zero experts.
    """

    arm: str
    popularity: str
    policy: str
    in_flight: int | None
    rate_per_s: float | None
    memory_budget_bytes: int
    metric: str
    cells: int
    experts_least: int
    experts_most: int
    per_expert: float
    per_expert_low: float | None
    per_expert_high: float | None
    at_none: float


def fit_rows(rows: Sequence[SweepRow]) -> Iterator[FitRow]:
    """The lines of each arm, budget, policy, popularity and load that has at least three such cells."""
    groups: dict[tuple[object, ...], list[SweepRow]] = {}
    for row in rows:
        # beyond the slots, the cost of an expert is that of its misses: no straight line
        if row.valid and _holds_all(row):
            key = (row.arm, row.memory_budget_bytes, row.policy, row.popularity, row.in_flight, row.rate_per_s)
            groups.setdefault(key, []).append(row)
    for members in groups.values():
        for metric, read in METRICS.items():
            points = [(row.experts, value) for row in members if (value := read(row)) is not None]
            if len(points) >= LEAST_CELLS:
                yield _fit(members[0], metric, points)


def _holds_all(row: SweepRow) -> bool:
    """Whether every expert is on the device: as the slots say, and where they are not known, by no request's miss."""
    return row.hit_rate == 1 if row.slots is None else row.slots >= row.experts


def _fit(row: SweepRow, metric: str, points: Sequence[tuple[int, float]]) -> FitRow:
    x, y = (np.asarray(values, dtype=np.float64) for values in zip(*points, strict=True))
    slope, intercept = _line(x, y)
    low, high = _interval(x, y) if len(points) >= LEAST_FOR_INTERVAL else (None, None)
    return FitRow(
        arm=row.arm,
        popularity=row.popularity,
        policy=row.policy,
        in_flight=row.in_flight,
        rate_per_s=row.rate_per_s,
        memory_budget_bytes=row.memory_budget_bytes,
        metric=metric,
        cells=len(points),
        experts_least=int(x.min()),
        experts_most=int(x.max()),
        per_expert=slope,
        per_expert_low=low,
        per_expert_high=high,
        at_none=intercept,
    )


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return slope, float(y.mean() - slope * x.mean())


def _interval(x: Floats, y: Floats) -> tuple[float, float]:
    """Ends of the slope over resampled cells; draws of one number of experts alone have no slope and are left out."""
    drawn = np.random.default_rng(0).integers(0, len(x), size=(RESAMPLES, len(x)))
    xs, ys = x[drawn], y[drawn]
    xs = xs - xs.mean(axis=1, keepdims=True)
    spread = (xs**2).sum(axis=1)
    slopes = (xs * (ys - ys.mean(axis=1, keepdims=True))).sum(axis=1)[spread > 0] / spread[spread > 0]
    low, high = np.quantile(slopes, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)
