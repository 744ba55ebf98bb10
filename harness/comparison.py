"""Two arms on the same requests: ratios with paired intervals."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.metrics import distinct_switches
from harness.records import RequestRecord
from harness.statistics import MINIMUM_N, Floats, paired_interval, paired_share_difference, percentile, quantiles, share
from harness.summary import ArmSummary, Comparison, Estimate

__all__ = ["compare_arms"]

Pairs = Sequence[tuple[RequestRecord, RequestRecord]]


def compare_arms(
    arm: str,
    baseline: str,
    records: Mapping[str, Sequence[RequestRecord]],
    summaries: Mapping[str, ArmSummary],
) -> Comparison:
    """`arm` against `baseline`, request by request of the same schedule."""
    others = {(r.repeat, r.index): r for r in records[baseline]}
    pairs = [(r, others[r.repeat, r.index]) for r in records[arm] if (r.repeat, r.index) in others]
    ours, theirs = summaries[arm], summaries[baseline]
    return Comparison(
        arm=arm,
        baseline=baseline,
        pairs=len(pairs),
        ttft_p50=_ratio(pairs, lambda r: r.ttft_s, 0.5),
        ttft_p90=_ratio(pairs, lambda r: r.ttft_s, 0.9),
        ttft_p99=_ratio(pairs, lambda r: r.ttft_s, 0.99),
        e2e_p50=_ratio(pairs, lambda r: r.e2e_s if r.outcome == "ok" else None, 0.5),
        switch_p50=_switch_ratio(records[arm], records[baseline]),
        weight_bytes=_quotient(_total(ours), _total(theirs)),
        moved_bytes=_quotient(ours.moved_bytes, theirs.moved_bytes),
        correct_goodput=_quotient(_value(ours.correct_goodput_per_s), _value(theirs.correct_goodput_per_s)),
        accuracy_difference=_accuracy_difference(pairs),
        equal_outputs=_equal_outputs(pairs),
    )


def _ratio(pairs: Pairs, value: Callable[[RequestRecord], float | None], q: float) -> Estimate | None:
    both = [(a, b) for left, right in pairs if (a := value(left)) is not None and (b := value(right)) is not None]
    if len(both) < MINIMUM_N[q]:
        return None

    def statistic(left: Floats, right: Floats) -> Floats:
        return _rows_percentile(left, q) / _rows_percentile(right, q)

    ours, theirs = [a for a, _ in both], [b for _, b in both]
    ratio = paired_interval(ours, theirs, statistic)
    return None if ratio is None else _bounded(ratio, _own(ours, q), _own(theirs, q))


def _own(values: Sequence[float], q: float) -> Estimate:
    own = quantiles(values)
    estimate = {0.5: own.p50, 0.9: own.p90, 0.99: own.p99}[q]
    assert estimate is not None
    return estimate


def _bounded(ratio: Estimate, ours: Estimate, theirs: Estimate) -> Estimate:
    """`ratio` without the ends that the arms' own percentiles leave open.

    Resampling never draws a value beyond the largest one seen, so that alone it would bound what the data cannot.
    """
    return Estimate(
        value=ratio.value,
        low=None if ours.low is None or theirs.high is None else ratio.low,
        high=None if ours.high is None or theirs.low is None else ratio.high,
    )


def _rows_percentile(values: Floats, q: float) -> Floats:
    rank = max(int(np.ceil(q * values.shape[-1])) - 1, 0)
    return np.asarray(np.partition(values, rank, axis=-1)[..., rank])


def _switch_ratio(ours: Sequence[RequestRecord], theirs: Sequence[RequestRecord]) -> Estimate | None:
    """Medians of two sets of switches that have no pairs: a value without an interval."""
    mine = [s.duration_s for s in distinct_switches(ours)]
    other = [s.duration_s for s in distinct_switches(theirs)]
    if not mine or not other or percentile(other, 0.5) == 0:
        return None
    return Estimate(value=percentile(mine, 0.5) / percentile(other, 0.5), low=None, high=None)


def _accuracy_difference(pairs: Pairs) -> Estimate | None:
    judged = [(a.correct, b.correct) for a, b in pairs if a.correct is not None and b.correct is not None]
    return paired_share_difference([a for a, _ in judged], [b for _, b in judged])


def _equal_outputs(pairs: Pairs) -> Estimate | None:
    answered = [(a, b) for a, b in pairs if a.outcome == b.outcome == "ok"]
    return share(sum(a.output == b.output for a, b in answered), len(answered))


def _total(summary: ArmSummary) -> int | None:
    return summary.weight_bytes["total"] if summary.weight_bytes else None


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate else None


def _quotient(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator
