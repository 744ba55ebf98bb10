"""How often the wanted expert changes from one request to the next: a Markov chain over any popularity.

Popularity says how often an expert is wanted, and nothing of the order; a system that swaps experts lives or dies by
the order. With probability `p` a request redraws its expert from the popularity (the same one may come again), and
otherwise wants the one before. The shares stay those of the popularity, and the realised switch rate is
`p * (1 - sum(share ** 2))`, since a redraw changes the expert with that probability.
"""

import random
from collections.abc import Iterator

from workloads.popularity import PopularityConfig, expert_shares

__all__ = ["expected_switch_rate", "with_locality"]


def with_locality(draws: Iterator[int], switch_probability: float, rng: random.Random) -> Iterator[int]:
    """The experts of consecutive requests, without end; at probability 1 they are `draws` themselves.

    `draws` must have no end; `rng` decides when to redraw, and advances.
    """
    if not 0 <= switch_probability <= 1:
        raise ValueError(f"switch_probability must be between 0 and 1, got {switch_probability}")
    return _chain(draws, switch_probability, rng)


def _chain(draws: Iterator[int], switch_probability: float, rng: random.Random) -> Iterator[int]:
    current = next(draws)
    yield current
    while True:
        if rng.random() < switch_probability:
            current = next(draws)
        yield current


def expected_switch_rate(popularity: PopularityConfig, experts: int, switch_probability: float) -> float:
    """The share of consecutive pairs of requests that want two different experts, in the long run."""
    if popularity.kind == "distinct":
        # a redraw goes to the next expert, which is another one unless there is only one
        return switch_probability if experts > 1 else 0.0
    repeat = sum(share**2 for share in expert_shares(popularity, experts))
    return switch_probability * (1 - repeat)
