"""The least error within a budget: against every combination, and where bytes have to be rounded."""

import itertools
import random

import pytest

from meswitch.allocation.knapsack import allocate, least_error
from meswitch.errors import CapacityError


def brute_force(costs: list[list[int]], errors: list[list[float]], budget: int) -> float:
    found = []
    for choice in itertools.product(*(range(len(row)) for row in costs)):
        if sum(row[j] for row, j in zip(costs, choice, strict=True)) <= budget:
            found.append(sum(row[j] for row, j in zip(errors, choice, strict=True)))
    return min(found)


def instance(seed: int) -> tuple[list[list[int]], list[list[float]], int]:
    rng = random.Random(seed)
    sizes = [rng.randint(1, 4) for _ in range(rng.randint(1, 6))]
    costs = [[rng.randint(0, 30) for _ in range(size)] for size in sizes]
    errors = [[rng.random() for _ in range(size)] for size in sizes]
    cheapest, dearest = sum(map(min, costs)), sum(map(max, costs))
    return costs, errors, rng.randint(cheapest, dearest + 3)


def sums(costs: list[list[int]], errors: list[list[float]], chosen: tuple[int, ...]) -> tuple[int, float]:
    cost = sum(row[j] for row, j in zip(costs, chosen, strict=True))
    return cost, sum(row[j] for row, j in zip(errors, chosen, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_the_optimum_is_that_of_all_combinations(seed: int) -> None:
    costs, errors, budget = instance(seed)
    cost, error = sums(costs, errors, allocate(costs, errors, budget))
    assert cost <= budget
    assert error == pytest.approx(brute_force(costs, errors, budget), abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_rounded_bytes_keep_the_budget_and_the_bound_below(seed: int) -> None:
    costs, errors, budget = instance(seed)
    cost, error = sums(costs, errors, allocate(costs, errors, budget, most_units=7))
    assert cost <= budget
    best = brute_force(costs, errors, budget)
    assert error >= best - 1e-12
    assert least_error(costs, errors, budget) <= best + 1e-12


def test_the_bound_by_hand() -> None:
    # 5 bytes more save 10, another item's 5 bytes save 4: 8 bytes buy the first and three fifths of the second
    costs, errors = [[0, 5], [0, 5]], [[10.0, 0.0], [4.0, 0.0]]
    assert least_error(costs, errors, 8) == pytest.approx(1.6)
    assert allocate(costs, errors, 8) == (1, 0)
    assert allocate(costs, errors, 10) == (1, 1)


def test_what_rounding_left_over_is_spent() -> None:
    # two steps of 4 bytes: 3 and 5 bytes round to 1 and 2 steps, so the plan has room for one; both fit
    assert allocate([[0, 3], [0, 5]], [[1.0, 0.0], [2.0, 0.0]], 8, most_units=2) == (1, 1)


def test_of_equal_errors_the_earlier_choice_is_taken() -> None:
    assert allocate([[2, 1, 1], [1]], [[1.0, 1.0, 1.0], [0.0]], 9) == (0, 0)


def test_many_items_are_within_a_hundredth_of_the_bound() -> None:
    rng = random.Random(0)
    costs = [[rng.randint(10**6, 2 * 10**6) * bits for bits in (1, 2, 4, 8)] for _ in range(60)]
    errors = [[rng.random() * 4.0**-bits for bits in (1, 2, 4, 8)] for _ in range(60)]
    budget = sum(row[1] for row in costs) + 12_345
    cost, error = sums(costs, errors, allocate(costs, errors, budget, most_units=1 << 14))
    assert cost <= budget
    # what a budget leaves over for the last of 60 items
    assert error <= 1.01 * least_error(costs, errors, budget)


def test_a_budget_below_the_cheapest_is_refused() -> None:
    with pytest.raises(CapacityError, match="the budget must be at least 7 bytes"):
        allocate([[3, 5], [4]], [[1.0, 0.0], [1.0]], 6)


def test_choices_without_a_cost_or_an_error_are_refused() -> None:
    for costs, errors in (([[]], [[]]), ([[1]], [[1.0, 2.0]]), ([[1]], [])):
        with pytest.raises(ValueError, match="every item must have choices"):
            allocate(costs, errors, 9)
