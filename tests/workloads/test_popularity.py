"""Popularity is what it says: a Zipf law is no geometric series, and shares are held to a chi-square test."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from workloads.popularity import PopularityConfig, draw_experts, expert_shares, parse_popularity

N = 20_000
EXPERTS = 8
# passed by chance once in 1,000 with 7 degrees of freedom
CHI_SQUARE_7 = 24.32


def zipf(exponent: float) -> PopularityConfig:
    return PopularityConfig(kind="zipf", exponent=exponent)


def draws_of(config: PopularityConfig, seed: int = 0, n: int = N) -> list[int]:
    return list(itertools.islice(draw_experts(config, EXPERTS, random.Random(seed)), n))


def check_zipf(draws: Sequence[int], exponent: float) -> None:
    weights = [1 / rank**exponent for rank in range(1, EXPERTS + 1)]
    counts = Counter(draws)
    expected = [len(draws) * weight / sum(weights) for weight in weights]
    statistic = sum((counts[i] - e) ** 2 / e for i, e in enumerate(expected))
    assert statistic < CHI_SQUARE_7


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.1, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_zipf_draws_pass_a_chi_square_test(exponent: float, seed: int) -> None:
    check_zipf(draws_of(zipf(exponent), seed), exponent)


def test_uniform_draws_pass_a_chi_square_test() -> None:
    check_zipf(draws_of(PopularityConfig(kind="uniform")), 0.0)


def test_the_check_catches_a_geometric_series_called_zipf() -> None:
    # the ratio of the first two shares, and so the head, is that of Zipf 0.8; only the tail differs
    weights = [2 ** (-0.8 * i) for i in range(EXPERTS)]
    draws = random.Random(0).choices(range(EXPERTS), weights, k=N)
    with pytest.raises(AssertionError):
        check_zipf(draws, 0.8)


def test_the_check_catches_ranks_in_reverse() -> None:
    with pytest.raises(AssertionError):
        check_zipf([EXPERTS - 1 - i for i in draws_of(zipf(0.8))], 0.8)


def test_shares_of_zipf_one_over_three_are_six_three_two_elevenths() -> None:
    assert expert_shares(zipf(1.0), 3) == pytest.approx((6 / 11, 3 / 11, 2 / 11))


def test_shares_of_the_other_words() -> None:
    assert expert_shares(PopularityConfig(kind="uniform"), 4) == (0.25, 0.25, 0.25, 0.25)
    assert expert_shares(PopularityConfig(kind="distinct"), 4) == (0.25, 0.25, 0.25, 0.25)
    assert expert_shares(PopularityConfig(kind="identical"), 3) == (1.0, 0.0, 0.0)


def test_distinct_draws_go_round_and_identical_draws_stay() -> None:
    assert draws_of(PopularityConfig(kind="distinct"), n=10) == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert draws_of(PopularityConfig(kind="identical"), n=4) == [0, 0, 0, 0]


def test_zero_is_a_seed_like_any_other() -> None:
    assert draws_of(zipf(1.0), 0, 50) == draws_of(zipf(1.0), 0, 50)
    assert draws_of(zipf(1.0), 0, 50) != draws_of(zipf(1.0), 1, 50)


def test_names_of_popularities_parse_and_print_alike() -> None:
    for text in ("uniform", "zipf:1.1", "distinct", "identical"):
        assert str(parse_popularity(text)) == text


@pytest.mark.parametrize("text", ["", "zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:inf", "uniform:1", "pareto"])
def test_a_popularity_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_popularity(text)


def test_there_must_be_an_expert() -> None:
    with pytest.raises(ValueError, match="experts must be at least 1, got 0"):
        expert_shares(zipf(1.0), 0)


def test_shares_sum_to_one_for_many_experts() -> None:
    assert math.fsum(expert_shares(zipf(0.8), 128)) == pytest.approx(1.0, abs=1e-12)
