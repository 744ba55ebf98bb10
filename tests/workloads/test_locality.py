"""Locality sets how often the expert changes, and leaves the shares as they are."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from workloads.locality import expected_switch_rate, with_locality
from workloads.popularity import PopularityConfig, draw_experts, expert_shares

N = 20_000
EXPERTS = 8
ZIPF = PopularityConfig(kind="zipf", exponent=0.8)


def chain(popularity: PopularityConfig, p: float, seed: int = 0, n: int = N) -> list[int]:
    draws = draw_experts(popularity, EXPERTS, random.Random(f"{seed}/draws"))
    return list(itertools.islice(with_locality(draws, p, random.Random(f"{seed}/switches")), n))


def check_switch_rate(experts: Sequence[int], rate: float) -> None:
    pairs = len(experts) - 1
    realised = sum(a != b for a, b in itertools.pairwise(experts)) / pairs
    assert abs(realised - rate) < 4 * math.sqrt(rate * (1 - rate) / pairs)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("popularity", [ZIPF, PopularityConfig(kind="uniform")])
def test_the_realised_switch_rate_is_p_times_one_minus_the_sum_of_squares(
    popularity: PopularityConfig, p: float
) -> None:
    shares = expert_shares(popularity, EXPERTS)
    rate = p * (1 - sum(share**2 for share in shares))
    check_switch_rate(chain(popularity, p), rate)
    assert expected_switch_rate(popularity, EXPERTS, p) == pytest.approx(rate)


def test_the_switch_rate_of_eight_uniform_experts_is_seven_eighths_of_p() -> None:
    assert expected_switch_rate(PopularityConfig(kind="uniform"), 8, 0.8) == pytest.approx(0.7)


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_shares_stay_those_of_the_popularity(p: float) -> None:
    counts = Counter(chain(ZIPF, p))
    for expert, share in enumerate(expert_shares(ZIPF, EXPERTS)):
        # a run of one expert counts as one draw, so the variance grows by (2 - p) / p
        error = math.sqrt(share * (1 - share) / N * (2 - p) / p)
        assert abs(counts[expert] / N - share) < 4 * error


def test_at_probability_one_the_chain_is_the_draws_themselves() -> None:
    draws = draw_experts(ZIPF, EXPERTS, random.Random("0/draws"))
    assert chain(ZIPF, 1.0, n=100) == list(itertools.islice(draws, 100))


def test_at_probability_zero_the_expert_never_changes() -> None:
    assert len(set(chain(ZIPF, 0.0, n=100))) == 1


def test_a_switch_between_distinct_experts_always_changes_the_expert() -> None:
    distinct = PopularityConfig(kind="distinct")
    check_switch_rate(chain(distinct, 0.7), 0.7)
    assert expected_switch_rate(distinct, EXPERTS, 0.7) == 0.7
    assert expected_switch_rate(distinct, 1, 0.7) == 0.0


def test_identical_experts_never_switch() -> None:
    assert set(chain(PopularityConfig(kind="identical"), 1.0, n=100)) == {0}
    assert expected_switch_rate(PopularityConfig(kind="identical"), EXPERTS, 1.0) == 0.0


def test_the_check_catches_a_redraw_that_excludes_the_current_expert() -> None:
    rng = random.Random(0)
    experts = [0]
    for _ in range(N):
        others = [e for e in range(EXPERTS) if e != experts[-1]]
        experts.append(rng.choice(others) if rng.random() < 0.7 else experts[-1])
    with pytest.raises(AssertionError):
        check_switch_rate(experts, expected_switch_rate(PopularityConfig(kind="uniform"), EXPERTS, 0.7))


def test_zero_is_a_seed_like_any_other() -> None:
    assert chain(ZIPF, 0.5, 0, 50) == chain(ZIPF, 0.5, 0, 50)
    assert chain(ZIPF, 0.5, 0, 50) != chain(ZIPF, 0.5, 1, 50)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_probability_outside_zero_to_one_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="switch_probability must be between 0 and 1"):
        with_locality(iter([0]), p, random.Random(0))
