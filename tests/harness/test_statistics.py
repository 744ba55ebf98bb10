import math

import numpy as np
import pytest

from harness import statistics
from harness.statistics import (
    effective_size,
    paired_interval,
    paired_share_difference,
    percentile,
    quantiles,
    rate,
    share,
)


@pytest.mark.parametrize(("q", "expected"), [(0.5, 3), (0.9, 5), (0.99, 5), (0.2, 1)])
def test_percentiles_are_observed_values_by_nearest_rank(q, expected):
    # ranks ceil(q * 5): 3, 5, 5, 1
    assert percentile([5, 3, 1, 2, 4], q) == expected


def test_p99_needs_three_hundred_values():
    assert quantiles(list(range(299))).p99 is None
    assert quantiles(list(range(30))).p90 is not None
    assert quantiles(list(range(29))).p90 is None


def scrambled(n):
    return [float(i) for i in np.random.default_rng(0).permutation(n)]


def test_the_interval_of_p99_of_a_thousand_values_is_between_ranks_983_and_997(monkeypatch):
    # binomial(1000, 0.99): P(B <= 982) = 0.015 and P(B <= 996) = 0.990, the tightest ranks outside 2.5 % each
    monkeypatch.setattr(statistics, "effective_size", lambda values: float(len(values)))
    p99 = quantiles(scrambled(1000)).p99
    assert (p99.value, p99.low, p99.high) == (989, 982, 996)


def test_three_hundred_values_do_not_bound_p99_from_above(monkeypatch):
    monkeypatch.setattr(statistics, "effective_size", lambda values: float(len(values)))
    # 0.99^300 = 4.9 %: more than 2.5 %
    assert quantiles(scrambled(300)).p99.high is None
    assert quantiles(scrambled(300)).p99.low is not None


def test_the_interval_of_a_median_of_ten_values_is_the_second_and_ninth(monkeypatch):
    monkeypatch.setattr(statistics, "effective_size", lambda values: float(len(values)))
    # binomial(10, 1/2): P(B <= 1) = 11 / 1024
    p50 = quantiles(scrambled(10)).p50
    assert (p50.low, p50.high) == (1, 8)


def test_values_that_follow_each_other_are_worth_less():
    # an AR(1) series of coefficient r is worth n (1 - r) / (1 + r) values
    rng, r, n = np.random.default_rng(1), 0.5, 20_000
    noise, series = rng.normal(size=n), [0.0]
    for e in noise[1:]:
        series.append(r * series[-1] + e)
    # 4 standard errors of the lag-1 coefficient; ranks of a normal lower it from 0.5 to 6/pi asin(r/2) = 0.4826
    rank_r = 6 / math.pi * math.asin(r / 2)
    expected = n * (1 - rank_r) / (1 + rank_r)
    assert effective_size(series) == pytest.approx(expected, rel=4 * 2 / math.sqrt(n) / (1 - rank_r))
    assert effective_size(scrambled(1000)) > 800


def test_equal_values_do_not_look_like_a_steady_climb():
    assert effective_size([7.0] * 500) == 500
    # independent verdicts, 9 of 10 right: r is within 4 standard errors of 0, and the size within twice as much
    verdicts = np.random.default_rng(0).random(10_000) < 0.9
    assert effective_size(verdicts.astype(float).tolist()) > 10_000 * (1 - 2 * 4 / math.sqrt(10_000))
    # half wrong, then half right: 998 of 999 neighbours agree and one pair does not, so r = 997 / 1000
    assert effective_size([0.0] * 500 + [1.0] * 500) == pytest.approx(1000 * 0.003 / 1.997)


def test_an_interval_of_independent_verdicts_is_as_wide_as_their_standard_error():
    rng = np.random.default_rng(0)
    ours, theirs = (rng.random(400) < 0.9, rng.random(400) < 0.9)
    estimate = paired_share_difference(ours.tolist(), theirs.tolist())
    difference = ours.astype(float) - theirs
    half = 1.96 * difference.std() / math.sqrt(400)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.2)


def test_pairs_that_never_differ_do_not_prove_that_none_would():
    # Wilson's upper bound of 0 in n: 1.96^2 / (n + 1.96^2)
    estimate = paired_share_difference([True, False] * 100, [True, False] * 100)
    assert (estimate.value, estimate.low) == (0, -estimate.high)
    assert estimate.high == pytest.approx(3.8415 / 203.8415, rel=1e-3)
    assert paired_share_difference([True] * 9, [True] * 9).high is None
    assert paired_share_difference([], []) is None


def test_a_share_has_wilsons_interval():
    # 8 of 10: centre (0.8 + z²/20) / (1 + z²/10) = 0.71674, half-width 0.22659
    estimate = share(8, 10)
    assert estimate.value == 0.8
    assert estimate.low == pytest.approx(0.49016, abs=1e-5)
    assert estimate.high == pytest.approx(0.94332, abs=1e-5)
    assert share(0, 0) is None
    assert share(5, 5).high == 1


def test_a_rate_counts_events_inside_the_window():
    estimate = rate([0.0, 0.5, 1.0, 1.5], 1.0)
    assert estimate.value == pytest.approx(3.0)
    assert rate([0.5], 1.0, [7.0]).value == pytest.approx(7.0)
    assert rate([0.5], None) is None
    assert rate([0.5], 0) is None


def test_an_even_rate_has_a_narrow_interval():
    even = rate([(i + 0.5) / 100 for i in range(1000)], 10.0)
    assert even.low == pytest.approx(100)
    assert even.high == pytest.approx(100)
    # everything in one of 20 parts: mean 100, deviation 100 sqrt(20), half-width 2.093 * 100
    lumped = rate([0.1] * 1000, 10.0)
    assert lumped.value == pytest.approx(100)
    assert lumped.low == 0
    assert lumped.high == pytest.approx(100 + 209.3, abs=0.1)


def mean_difference(left, right):
    return (left - right).mean(axis=-1)


def test_a_paired_interval_covers_the_true_difference_as_often_as_it_says():
    rng, hits, trials = np.random.default_rng(2), 0, 200
    for _ in range(trials):
        common = rng.normal(size=60)
        left, right = common + rng.normal(0.3, 1, size=60), common + rng.normal(0, 1, size=60)
        estimate = paired_interval(left.tolist(), right.tolist(), mean_difference)
        hits += estimate.low <= 0.3 <= estimate.high
    # 95 % less what a percentile bootstrap of blocks loses at 60 pairs, less 4 standard errors
    assert hits / trials > 0.91 - 4 * math.sqrt(0.91 * 0.09 / trials)


def test_few_pairs_have_no_interval_and_none_have_no_value():
    assert paired_interval([1.0], [0.0], mean_difference).low is None
    assert paired_interval([], [], mean_difference) is None


def test_paired_samples_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="must have one length, got 1 and 2"):
        paired_interval([1.0], [1.0, 2.0], mean_difference)
