"""Arrival processes are what they say: moments, shape, dispersion and independence, within standard errors."""

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence

import pytest

from workloads.arrivals import ArrivalConfig, arrival_times, parse_arrivals
from workloads.profile import index_of_dispersion

N = 20_000
RATE = 4.5
POISSON = ArrivalConfig(kind="poisson", rate_per_s=RATE)


def gamma(cv: float) -> ArrivalConfig:
    return ArrivalConfig(kind="gamma", rate_per_s=RATE, cv=cv)


def times_of(config: ArrivalConfig, seed: int = 0, n: int = N) -> list[float]:
    return list(itertools.islice(arrival_times(config, random.Random(seed)), n))


def gaps_of(times: Sequence[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise([0.0, *times])]


def gamma_cdf(shape: float, x: float) -> float:
    """Share of a gamma distribution of scale 1 below x, by the series of the incomplete gamma function."""
    if x <= 0:
        return 0.0
    term = total = 1.0
    for i in itertools.count(1):
        term *= x / (shape + i)
        total += term
        if term < 1e-15 * total:
            return total * math.exp(shape * math.log(x) - x - math.lgamma(shape + 1))
    raise AssertionError


def check_moments(gaps: Sequence[float], cv: float) -> None:
    n = len(gaps)
    mean = statistics.fmean(gaps)
    assert abs(mean * RATE - 1) < 4 * cv / math.sqrt(n)
    # standard error of a gamma sample's CV, by the delta method; 1 / sqrt(n) for exponential gaps
    error = cv * math.sqrt((1 + cv**2) / 2 / n)
    assert abs(statistics.pstdev(gaps) / mean - cv) < 4 * error


def check_shape(gaps: Sequence[float], cv: float) -> None:
    """Kolmogorov-Smirnov against the gamma law; 1.949 / sqrt(n) is passed by chance once in 1,000."""
    shape = cv**-2
    n = len(gaps)
    below = [gamma_cdf(shape, gap * RATE * shape) for gap in sorted(gaps)]
    distance = max(max(p - i / n, (i + 1) / n - p) for i, p in enumerate(below))
    assert distance < 1.949 / math.sqrt(n)


def check_totals(totals: Sequence[float], n: int) -> None:
    """The time of the n-th arrival scatters as a sum of n free gaps, which a rescaled schedule's doesn't."""
    ratio = statistics.variance(totals) * RATE**2 / n
    assert abs(ratio - 1) < 4 * math.sqrt(2 / (len(totals) - 1))


@pytest.mark.parametrize(("config", "cv"), [(POISSON, 1.0), (gamma(0.5), 0.5), (gamma(1.0), 1.0), (gamma(2.0), 2.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_gaps_have_the_mean_the_cv_and_the_shape_of_their_law(config: ArrivalConfig, cv: float, seed: int) -> None:
    gaps = gaps_of(times_of(config, seed))
    check_moments(gaps, cv)
    check_shape(gaps, cv)


@pytest.mark.parametrize("config", [POISSON, gamma(2.0)])
def test_consecutive_gaps_are_not_correlated(config: ArrivalConfig) -> None:
    gaps = gaps_of(times_of(config))
    assert abs(statistics.correlation(gaps[:-1], gaps[1:])) < 4 / math.sqrt(N)


@pytest.mark.parametrize(("config", "dispersion"), [(POISSON, 1.0), (gamma(0.5), 0.25), (gamma(2.0), 4.0)])
def test_counts_in_wide_windows_disperse_as_the_square_of_the_cv(config: ArrivalConfig, dispersion: float) -> None:
    window_s = 100 / RATE
    times = times_of(config)
    measured = index_of_dispersion(times, window_s)
    assert measured is not None
    windows = int(times[-1] // window_s)
    assert measured == pytest.approx(dispersion, rel=4 * math.sqrt(2 / (windows - 1)))


def test_totals_scatter_because_gaps_are_not_rescaled() -> None:
    check_totals([times_of(POISSON, seed, 100)[-1] for seed in range(400)], 100)


def test_constant_gaps_are_all_equal() -> None:
    config = ArrivalConfig(kind="constant", rate_per_s=4.0)
    assert list(itertools.islice(arrival_times(config, random.Random(0)), 4)) == [0.25, 0.5, 0.75, 1.0]


def clipped(gaps: Sequence[float]) -> Iterator[float]:
    return (min(gap, 3 / RATE) for gap in gaps)


def gridded(gaps: Sequence[float]) -> Iterator[float]:
    """Gaps on a grid of half a mean gap, with the right mean: an exponential law by its looks only."""
    return ((math.floor(gap * RATE / 0.5) + 0.5) * 0.5 / RATE for gap in gaps)


@pytest.mark.parametrize(("fault", "check"), [(clipped, check_moments), (clipped, check_shape), (gridded, check_shape)])
def test_the_checks_catch_gaps_that_were_tampered_with(
    fault: Callable[[Sequence[float]], Iterator[float]], check: Callable[[Sequence[float], float], None]
) -> None:
    gaps = list(fault(gaps_of(times_of(POISSON))))
    with pytest.raises(AssertionError):
        check(gaps, 1.0)


def test_the_checks_catch_rescaled_gaps() -> None:
    with pytest.raises(AssertionError):
        check_totals([100 / RATE] * 400, 100)


@pytest.mark.parametrize("config", [POISSON, gamma(2.0)])
def test_zero_is_a_seed_like_any_other(config: ArrivalConfig) -> None:
    assert times_of(config, 0, 50) == times_of(config, 0, 50)
    assert times_of(config, 0, 50) != times_of(config, 1, 50)


def test_names_of_processes_parse_and_print_alike() -> None:
    for text in ("constant", "poisson", "gamma:2.5"):
        assert str(parse_arrivals(text, 1.0)) == text
    assert parse_arrivals("gamma:2.5", 3.0) == ArrivalConfig(kind="gamma", rate_per_s=3.0, cv=2.5)


@pytest.mark.parametrize("text", ["", "gama:1", "gamma", "gamma:", "poisson:2", "gamma:x", "gamma:0", "gamma:nan"])
def test_a_process_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_arrivals(text, 1.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_must_be_positive_and_finite(rate: float) -> None:
    with pytest.raises(ValueError, match="rate_per_s must be positive"):
        ArrivalConfig(rate_per_s=rate)
