"""Search by mutation: within the budget at every step, the same again from one seed, and no worse than its start."""

import random

import pytest

from meswitch.allocation.evolution import EvolutionConfig, evolve, switch_levels
from meswitch.errors import CapacityError

COSTS = [[1, 2, 4]] * 8
LADDERS = [[0, 1, 2]] * 8
START = (1,) * 8
BUDGET = 16


def error(chosen: tuple[int, ...], _: int) -> float:
    """The last items matter most: two of them at level 2 are worth four others at level 0."""
    return sum((2 - level) * 3.0**item for item, level in enumerate(chosen))


def test_mutations_move_levels_and_keep_the_budget() -> None:
    rng = random.Random(0)
    seen = {switch_levels(START, LADDERS, COSTS, BUDGET, rng) for _ in range(300)}
    assert len(seen) > 50
    for child in seen:
        assert sum(COSTS[i][level] for i, level in enumerate(child)) <= BUDGET
    # one up by 2 bytes, two down by one
    assert (2, 0, 0, 1, 1, 1, 1, 1) in seen or any(sorted(c) == [0, 0, 1, 1, 1, 1, 1, 2] for c in seen)


def test_nothing_to_lower_leaves_the_parent() -> None:
    rng = random.Random(0)
    assert {switch_levels((0, 0), [[0, 1]] * 2, [[1, 9]] * 2, 2, rng) for _ in range(20)} == {(0, 0)}


def test_the_search_finds_what_the_sum_of_errors_prefers() -> None:
    config = EvolutionConfig(generations=60, offspring=12, survivors=(4, 1), samples=(1, 2))
    best = evolve(START, COSTS, BUDGET, error, config)
    assert sum(COSTS[i][level] for i, level in enumerate(best)) <= BUDGET
    # 16 bytes: two items at 4, and six at 1, leave 2 that buy two levels
    assert best == (0, 0, 0, 0, 1, 1, 2, 2)


def test_one_seed_gives_one_result_and_generations_are_told() -> None:
    seen: list[tuple[int, float]] = []
    config = EvolutionConfig(generations=5, seed=3)
    found = evolve(START, COSTS, BUDGET, error, config, on_generation=lambda *x: seen.append(x))
    assert found == evolve(START, COSTS, BUDGET, error, config)
    assert [number for number, _ in seen] == list(range(5))
    values = [value for _, value in seen]
    assert values == sorted(values, reverse=True)
    assert values[-1] == error(found, 64)


def test_the_few_best_are_compared_on_more_samples() -> None:
    asked: list[int] = []

    def fitness(chosen: tuple[int, ...], samples: int) -> float:
        asked.append(samples)
        return error(chosen, samples)

    evolve(START, COSTS, BUDGET, fitness, EvolutionConfig(generations=1, offspring=6, survivors=(2, 1), samples=(5, 9)))
    # the parent on all samples, then at most six on five, then two on nine
    assert asked[0] == 9
    assert set(asked[1:-2]) == {5}
    assert asked[-2:] == [9, 9]


def test_without_generations_the_start_comes_back() -> None:
    assert evolve(START, COSTS, BUDGET, error, EvolutionConfig(generations=0)) == START


def test_a_start_above_the_budget_is_refused() -> None:
    with pytest.raises(CapacityError, match="the first assignment must cost at most 15 bytes, got 16"):
        evolve(START, COSTS, 15, error, EvolutionConfig())


@pytest.mark.parametrize("changes", [{"offspring": 0}, {"survivors": (4, 2)}, {"survivors": (1,)}])
def test_impossible_configs_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        EvolutionConfig(**changes)  # type: ignore[arg-type]


def test_a_config_takes_no_more_samples_than_there_are() -> None:
    assert EvolutionConfig(samples=(16, 64)).within(20).samples == (16, 20)
    assert EvolutionConfig(samples=(16, 64)).within(100) == EvolutionConfig(samples=(16, 64))
