"""One of several choices for each item, the least error within a budget: the multiple-choice knapsack.

Solved by dynamic programming over the budget, as an integer programme of this form always can be (Kellerer, Pferschy
and Pisinger, Knapsack Problems, 2004, chapter 11). Choosing bit widths so is known from PMQ (MC-MoE, arXiv 2410.06270).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meswitch.errors import CapacityError

__all__ = ["allocate", "least_error"]

MOST_UNITS = 1 << 18
"""Steps of the budget; where bytes have no common divisor that is large enough, costs are rounded up to them."""

Rows = Sequence[Sequence[float]]


def allocate(
    costs: Sequence[Sequence[int]], errors: Rows, budget: int, *, most_units: int = MOST_UNITS
) -> tuple[int, ...]:
    """The choice for each item with which the errors' sum is least and the costs' sum at most `budget`.

    Exact if the budget above the cheapest choices is at most `most_units` times the common divisor of all differences;
    else costs are rounded up to so many steps, what that left over is spent where it helps most, and `least_error`
    tells how far from the optimum the result can be. Of equal errors the earlier choice is taken.

    Args:
        costs, errors: of each item, the same number for both; costs are at least 0.

    Raises:
        ValueError: an item has no choice, or costs and errors do not fit each other.
        CapacityError: not even the cheapest choices fit.
    """
    check(costs, errors)
    cheapest = [min(row) for row in costs]
    slack = budget - sum(cheapest)
    if slack < 0:
        raise CapacityError(
            f"the budget must be at least {sum(cheapest)} bytes, what the cheapest candidates take, got {budget}"
        )
    extra = [[cost - least for cost in row] for row, least in zip(costs, cheapest, strict=True)]
    divisor = math.gcd(*(cost for row in extra for cost in row)) or 1
    # more than everything at its dearest is never spent
    slack = min(slack, sum(max(row) for row in extra))
    unit = divisor if slack <= divisor * most_units else -(-slack // most_units)
    chosen = by_steps([[-(-cost // unit) for cost in row] for row in extra], errors, slack // unit)
    return chosen if unit == divisor else spend_rest(chosen, extra, errors, slack)


def least_error(costs: Sequence[Sequence[int]], errors: Rows, budget: int) -> float:
    """A bound that no choice within `budget` can go below: the optimum of the linear relaxation.

    By duality it is the largest of `Σ_i min_j (error_ij + λ · cost_ij) − λ · budget` over λ ≥ 0, which is concave and
    bends only where two choices of an item are worth the same.

    Raises:
        ValueError: an item has no choice, or costs and errors do not fit each other.
    """
    check(costs, errors)
    prices = {0.0}
    for cost, error in zip(costs, errors, strict=True):
        pairs = [
            (i, j) for i in range(len(cost)) for j in range(len(cost)) if cost[i] > cost[j] and error[i] < error[j]
        ]
        prices |= {(error[j] - error[i]) / (cost[i] - cost[j]) for i, j in pairs}
    ordered = sorted(prices)

    def dual(price: float) -> float:
        least = (min(e + price * c for c, e in zip(*row, strict=True)) for row in zip(costs, errors, strict=True))
        return math.fsum(least) - price * budget

    low, high = 0, len(ordered) - 1
    while high - low > 2:
        middle = (low + high) // 2
        low, high = (middle, high) if dual(ordered[middle]) < dual(ordered[middle + 1]) else (low, middle + 1)
    return max(dual(price) for price in ordered[low : high + 1])


def check(costs: Sequence[Sequence[int]], errors: Rows) -> None:
    """Refuse costs and errors that do not belong together."""
    if len(costs) != len(errors) or any(not c or len(c) != len(e) for c, e in zip(costs, errors, strict=True)):
        raise ValueError("every item must have choices, and each of them a cost and an error")


def by_steps(costs: Sequence[Sequence[int]], errors: Rows, steps: int) -> tuple[int, ...]:
    """The optimum for costs and a budget in whole steps; the cheapest choice of every item costs 0."""
    best: NDArray[np.float64] = np.zeros(steps + 1)
    taken = np.zeros((len(costs), steps + 1), dtype=np.uint8 if max(map(len, costs), default=0) < 256 else np.int32)
    for item, (row, error) in enumerate(zip(costs, errors, strict=True)):
        after = np.full(steps + 1, np.inf)
        for choice, (cost, loss) in enumerate(zip(row, error, strict=True)):
            if cost > steps:
                continue
            found = best[: steps + 1 - cost] + loss
            better = found < after[cost:]
            after[cost:][better] = found[better]
            taken[item, cost:][better] = choice
        best = after
    place, chosen = int(steps), []
    for item in reversed(range(len(costs))):
        choice = int(taken[item, place])
        chosen.append(choice)
        place -= costs[item][choice]
    return tuple(reversed(chosen))


def spend_rest(chosen: tuple[int, ...], costs: Sequence[Sequence[int]], errors: Rows, budget: int) -> tuple[int, ...]:
    """`chosen` with every change that lowers the error and still fits, the largest gain first."""
    now = list(chosen)
    left = budget - sum(row[choice] for row, choice in zip(costs, now, strict=True))
    while True:
        gains = [
            (errors[i][now[i]] - errors[i][j], -i, -j)
            for i in range(len(now))
            for j in range(len(costs[i]))
            if errors[i][j] < errors[i][now[i]] and costs[i][j] - costs[i][now[i]] <= left
        ]
        if not gains:
            return tuple(now)
        _, item, choice = max(gains)
        left -= costs[-item][-choice] - costs[-item][now[-item]]
        now[-item] = -choice
