"""Means over tasks and seeds with intervals that resample items and seeds. Pure; numpy only.

The mean of an arm is over tasks, of means over seeds, of a statistic over items. A resample draws items within a task,
the same ones for all seeds and arms, and seeds within a task: what two arms share cancels in their comparison.
With three seeds the intervals count the spread between seeds only roughly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.summary import Estimate

__all__ = ["RESAMPLES", "Draws", "TaskScores", "resampled"]

RESAMPLES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """Scores of one task's items: `[seeds, arms, items]`, and `[seeds, items]` of the two ends; tokens `[items]`."""

    tokens: Floats
    nll: Floats
    kl: Floats
    agree: Floats
    right: Floats
    exact: Floats
    nll_base: Floats
    nll_expert: Floats
    exact_expert: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """A statistic of every arm: its value `[arms]`, and its values in resamples `[RESAMPLES, arms]`."""

    value: Floats
    drawn: Floats

    def estimate(self, arm: int) -> Estimate:
        """The value of an arm with its 95 % interval."""
        return _estimate(self.value[arm], self.drawn[:, arm])

    def ratio(self, arm: int, reference: int) -> Estimate:
        """One arm's value over another's, over the same resamples."""
        return _estimate(self.value[arm] / self.value[reference], self.drawn[:, arm] / self.drawn[:, reference])

    def difference(self, arm: int, reference: int) -> Estimate:
        """One arm's value less another's, over the same resamples."""
        return _estimate(self.value[arm] - self.value[reference], self.drawn[:, arm] - self.drawn[:, reference])


def resampled(tasks: Sequence[TaskScores], *, seed: int = 0) -> Mapping[str, Draws]:
    """KL, agreement, token accuracy, accuracy less the expert's and gap closed, by name."""
    generator = np.random.default_rng(seed)
    values: dict[str, list[Floats]] = {}
    draws: dict[str, list[Floats]] = {}
    for task in tasks:
        seeds, _, items = task.kl.shape
        for name, value in statistics(task, np.ones((1, items)), np.full((1, seeds), 1 / seeds)).items():
            values.setdefault(name, []).append(value[0])
        counts = generator.multinomial(items, np.full(items, 1 / items), size=RESAMPLES).astype(np.float64)
        chosen = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
        for name, value in statistics(task, counts, chosen).items():
            draws.setdefault(name, []).append(value)
    return {name: Draws(value=np.mean(values[name], axis=0), drawn=np.mean(draws[name], axis=0)) for name in values}


def statistics(task: TaskScores, counts: Floats, seeds: Floats) -> dict[str, Floats]:
    """Each statistic `[R, arms]` for item counts `[R, items]` and seed weights `[R, seeds]`."""
    tokens = (counts @ task.tokens)[:, None, None]
    items = counts.sum(axis=1)[:, None, None]

    def sums(scores: Floats) -> Floats:
        # [R, seeds, arms]
        return np.asarray(np.einsum("rn,san->rsa", counts, scores, optimize=True))

    def over_seeds(values: Floats) -> Floats:
        return np.asarray(np.einsum("rs,rsa->ra", seeds, values))

    base, expert = sums(task.nll_base[:, None]), sums(task.nll_expert[:, None])
    return {
        "kl": over_seeds(sums(task.kl) / tokens),
        "agreement": over_seeds(sums(task.agree) / tokens),
        "token_accuracy": over_seeds(sums(task.right) / tokens),
        "accuracy": over_seeds(sums(task.exact) / items),
        "accuracy_change": over_seeds((sums(task.exact) - sums(task.exact_expert[:, None])) / items),
        "gap_closed": over_seeds((base - sums(task.nll)) / (base - expert)),
    }


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=float(value), low=float(low), high=float(high))
