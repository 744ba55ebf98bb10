"""Search for choices by what they do to the model, in the manner of EvoPress (Sieberling et al., arXiv 2410.14649).

Errors of layers do not simply add up in a model's answers. A population of one is mutated: some items go up a level,
others down until the budget holds again (level switch). Offspring are compared on a few samples first, and the best of
them on more (multi-step selection); the parent stands against the last of them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from meswitch.errors import CapacityError

__all__ = ["Assignment", "EvolutionConfig", "Fitness", "evolve", "switch_levels"]

Assignment = tuple[int, ...]
Fitness = Callable[[Assignment, int], float]
"""Of an assignment on the first so many samples: the lower, the better."""

MOST_SWITCHES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionConfig:
    """How long, and on how many samples.

    Attributes:
        offspring: of each generation.
        survivors: left after each step of the selection; the last is 1.
        samples: of each step.
        seed: of all mutations.
    """

    generations: int = 20
    offspring: int = 16
    survivors: tuple[int, ...] = (4, 1)
    samples: tuple[int, ...] = (16, 64)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.generations < 0 or self.offspring < 1:
            raise ValueError(f"there must be offspring, got {self.offspring} in {self.generations} generations")
        if len(self.survivors) != len(self.samples) or not self.survivors or self.survivors[-1] != 1:
            raise ValueError(f"survivors must end with 1 and have as many steps as samples, got {self.survivors}")

    def within(self, samples: int) -> "EvolutionConfig":
        """The same where there are so many samples, and no more."""
        return replace(self, samples=tuple(min(count, samples) for count in self.samples))


def evolve(
    start: Assignment,
    costs: Sequence[Sequence[int]],
    budget: int,
    fitness: Fitness,
    config: EvolutionConfig,
    *,
    on_generation: Callable[[int, float], None] | None = None,
) -> Assignment:
    """The fittest assignment that was found, `start` if none is fitter; none ever costs more than `budget`.

    Args:
        start: a choice for each item.
        costs: of each item's choices.
        fitness: see `Fitness`; called twice with the same arguments it must say the same.
        on_generation: called with the number of each generation and the fitness of its best on all samples.

    Raises:
        CapacityError: `start` costs more than `budget`.
    """
    if total(start, costs) > budget:
        raise CapacityError(f"the first assignment must cost at most {budget} bytes, got {total(start, costs)}")
    rng = random.Random(f"evolution/{config.seed}")
    ladders = [sorted(range(len(row)), key=lambda j, row=row: (row[j], j)) for row in costs]  # type: ignore[misc]
    parent, best = start, fitness(start, config.samples[-1])
    for generation in range(config.generations):
        offspring = {switch_levels(parent, ladders, costs, budget, rng) for _ in range(config.offspring)}
        # sorted, because the order of a set is no one's choice
        left = sorted(offspring - {parent})
        for survivors, samples in zip(config.survivors, config.samples, strict=True):
            scored = sorted((fitness(child, samples), child) for child in left)
            left = [child for _, child in scored[:survivors]]
        if left and scored[0][0] < best:
            best, parent = scored[0]
        if on_generation is not None:
            on_generation(generation, best)
    return parent


def switch_levels(
    parent: Assignment,
    ladders: Sequence[Sequence[int]],
    costs: Sequence[Sequence[int]],
    budget: int,
    rng: random.Random,
) -> Assignment:
    """`parent` with a few items one level up, and others, at random, down until it costs at most `budget`.

    Args:
        ladders: each item's choices, the cheapest first.
    """
    child = list(parent)
    raised = set()
    for _ in range(min(rng.randint(1, MOST_SWITCHES), rng.randint(1, MOST_SWITCHES))):
        item = rng.randrange(len(child))
        place = ladders[item].index(child[item])
        if place + 1 < len(ladders[item]):
            child[item] = ladders[item][place + 1]
            raised.add(item)
    while total(child, costs) > budget:
        lower = [i for i in range(len(child)) if i not in raised and child[i] != ladders[i][0]]
        if not lower:
            return parent
        item = rng.choice(lower)
        child[item] = ladders[item][ladders[item].index(child[item]) - 1]
    return tuple(child)


def total(assignment: Sequence[int], costs: Sequence[Sequence[int]]) -> int:
    """What an assignment costs."""
    return sum(row[choice] for row, choice in zip(costs, assignment, strict=True))
