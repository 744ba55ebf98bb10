"""Estimates with 95 % intervals: percentiles, shares, rates, and ratios of paired samples. Pure; numpy only.

Every random draw is seeded, so that the same records give the same bytes.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.summary import Estimate, Quantiles

__all__ = [
    "METHODS",
    "RESAMPLES",
    "effective_size",
    "paired_interval",
    "paired_share_difference",
    "percentile",
    "quantiles",
    "rate",
    "share",
]

METHODS = {
    "percentile": "nearest rank: the smallest value that at least the stated share of all values does not exceed",
    "percentile_interval": "order statistics: binomial ranks at the effective sample size",
    "n_effective": "n (1 - r) / (1 + r), r the lag-1 autocorrelation of the ranks in schedule order, if positive",
    "percentile_guard": "p90 from 30 values on, p99 from 300 values on, otherwise null",
    "share_interval": "Wilson score",
    "rate_interval": "batch means: 20 equal parts of the window, Student t",
    "paired_interval": "moving-block bootstrap over requests, the same blocks in both arms, 2000 resamples, seed 0; "
    "an end that an arm's own percentile leaves open is null; where no verdict differs, Wilson's bound on the share "
    "that would",
}

Z95 = 1.959963984540054
T95_19 = 2.093024054408263
BATCHES = 20
RESAMPLES = 2000
MINIMUM_N = {0.5: 1, 0.9: 30, 0.99: 300}

Floats = NDArray[np.float64]


def percentile(values: Sequence[float] | Floats, q: float) -> float:
    """The nearest-rank percentile: an observed value, never an interpolation. `values` is not empty."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[max(math.ceil(q * len(ordered)) - 1, 0)])


def effective_size(values: Sequence[float]) -> float:
    """How many independent values `values`, in schedule order, are worth: between 1 and `len(values)`."""
    n = len(values)
    if n < 3:
        return float(n)
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    # equal values share their mean rank: ranked in schedule order, they would look like a steady climb
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[places]
    ranks -= ranks.mean()
    spread = float((ranks * ranks).sum())
    if spread == 0:
        return float(n)
    r = float((ranks[1:] * ranks[:-1]).sum()) / spread
    return float(n) if r <= 0 else max(n * (1 - r) / (1 + r), 1.0)


def quantiles(values: Sequence[float]) -> Quantiles:
    """p50, p90 and p99 of `values`, given in schedule order."""
    n_effective = effective_size(values)
    ordered = sorted(values)

    def estimate(q: float) -> Estimate | None:
        if len(ordered) < MINIMUM_N[q]:
            return None
        low, high = _interval_ranks(len(ordered), n_effective, q)
        rank = max(math.ceil(q * len(ordered)) - 1, 0)
        return Estimate(
            value=ordered[rank],
            low=None if low is None else ordered[min(low, rank)],
            high=None if high is None else ordered[max(high, rank)],
        )

    return Quantiles(
        n=len(ordered),
        n_effective=round(n_effective, 1),
        p50=estimate(0.5),
        p90=estimate(0.9),
        p99=estimate(0.99),
    )


def share(successes: int, n: int) -> Estimate | None:
    """`successes / n` with Wilson's interval; `None` of nothing."""
    if n == 0:
        return None
    p = successes / n
    denominator = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / denominator
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / denominator
    # at the ends the formula gives 0 and 1 up to rounding
    return Estimate(
        value=p,
        low=max(centre - half, 0.0) if successes else 0.0,
        high=min(centre + half, 1.0) if successes < n else 1.0,
    )


def rate(times_s: Sequence[float], window_s: float | None, weights: Sequence[float] | None = None) -> Estimate | None:
    """Events (or their weight) per second within `[0, window_s]`; `None` without a window."""
    if window_s is None or window_s <= 0:
        return None
    times = np.asarray(times_s, dtype=np.float64)
    weight = np.ones_like(times) if weights is None else np.asarray(weights, dtype=np.float64)
    inside = (times >= 0) & (times <= window_s)
    parts, _ = np.histogram(times[inside], bins=BATCHES, range=(0, window_s), weights=weight[inside])
    rates = parts * (BATCHES / window_s)
    value = float(rates.mean())
    half = T95_19 * float(rates.std(ddof=1)) / math.sqrt(BATCHES)
    return Estimate(value=value, low=max(value - half, 0.0), high=value + half)


def paired_interval(
    arm: Sequence[float],
    baseline: Sequence[float],
    statistic: Callable[[Floats, Floats], Floats],
    *,
    independent: bool = False,
) -> Estimate | None:
    """`statistic` of two paired samples, in schedule order, with a block-bootstrap interval.

    Args:
        statistic: maps two `[..., n]` arrays to `[...]`, reducing the last axis.
        independent: the pairs share no queue, so that single pairs are drawn instead of blocks.
    """
    n = len(arm)
    if n != len(baseline):
        raise ValueError(f"paired samples must have one length, got {n} and {len(baseline)}")
    if n == 0:
        return None
    pair = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    value = float(statistic(*pair))
    if not math.isfinite(value):
        return None
    if n < 10:
        return Estimate(value=value, low=None, high=None)
    rows = _block_indices(n, 1 if independent else _block_length(pair))
    drawn = statistic(pair[0][rows], pair[1][rows])
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975], method="inverted_cdf")
    return Estimate(value=value, low=float(low), high=float(high))


def paired_share_difference(
    arm: Sequence[bool], baseline: Sequence[bool], *, independent: bool = False
) -> Estimate | None:
    """Share of true values in `arm` less that in `baseline`, with a bootstrap interval over the pairs.

    Where no pair differs there is nothing to resample, and yet the next pair may differ: the ends are then Wilson's
    bound on the share of pairs that differ, of which none was seen.
    """

    def statistic(left: Floats, right: Floats) -> Floats:
        return np.asarray((left - right).mean(axis=-1))

    estimate = paired_interval(list(map(float, arm)), list(map(float, baseline)), statistic, independent=independent)
    differing = share(0, len(arm))
    if estimate is None or estimate.low is None or differing is None or differing.high is None:
        return estimate
    if any(a != b for a, b in zip(arm, baseline, strict=True)):
        return estimate
    return Estimate(value=0.0, low=-differing.high, high=differing.high)


def _block_length(pair: tuple[Floats, Floats]) -> int:
    n = len(pair[0])
    longest = max(n / effective_size(sample.tolist()) for sample in pair)
    return max(min(max(math.ceil(math.cbrt(n)), math.ceil(longest)), n // 4), 1)


def _block_indices(n: int, length: int) -> NDArray[np.int64]:
    # circular blocks, so that the first and last requests are drawn as often as the others
    starts = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, math.ceil(n / length), 1))
    return ((starts + np.arange(length)) % n).reshape(RESAMPLES, -1)[:, :n]


def _interval_ranks(n: int, n_effective: float, q: float) -> tuple[int | None, int | None]:
    """Zero-based ranks that enclose the true percentile with 95 %; `None` where the data has no such value."""
    m = max(round(n_effective), 1)
    cumulative = np.cumsum(np.exp(_log_binomial(m, q)))
    # the true percentile lies below the k-th smallest value (k from 1) with probability P(B <= k - 1)
    low = int(np.searchsorted(cumulative, 0.025, side="right"))
    high = int(np.searchsorted(cumulative, 0.975 - 1e-12)) + 1
    # rank k of m independent values stands at k / (m + 1) of the distribution
    scale = (n + 1) / (m + 1)
    lower = None if low < 1 else max(math.floor(low * scale + 1e-9), 1) - 1
    upper = None if high > m else min(math.ceil(high * scale - 1e-9), n) - 1
    return lower, upper


def _log_binomial(m: int, q: float) -> Floats:
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, m + 1)))])
    k = np.arange(m + 1)
    choose = log_factorial[m] - log_factorial[k] - log_factorial[m - k]
    return np.asarray(choose + k * math.log(q) + (m - k) * math.log1p(-q))
