"""Codecs for each linear of one expert within some bits: by errors that add up, or by what they do to its answers.

Every candidate describes every linear once. D̂, what a codec makes of a delta, is kept of all of them on the deltas'
device: with 16 candidates of 106 million weights 6.8 GB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import NoReturn, get_args

import torch

from harness.fidelity.allocated import CANDIDATES, Allocated, Knapsack
from harness.fidelity.bench import Bench
from harness.fidelity.describe import describe
from harness.fidelity.scores import Search
from harness.fidelity.stacked import Stacks
from harness.fidelity.subject import Subject, take_delta, take_weights
from meswitch.allocation import (
    OWN,
    Allocation,
    Choice,
    EvolutionConfig,
    alike_within,
    allocate,
    measure,
    search_choices,
)
from meswitch.allocation.sensitivity import allocation_of, codec_bytes, costs_of, errors_of, weighted_error
from meswitch.codecs import parse_codec
from meswitch.errors import CapacityError

__all__ = ["AllocationConfig", "Allocator"]

MOST_UNITS = 1 << 16
"""Steps of a budget: finer ones take seconds where a model has hundreds of linears."""

Assignment = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationConfig:
    """What is chosen from, and how long is searched.

    Attributes:
        candidates: specs of codecs.
        reference: the one of them with which each linear alone is measured: coarse enough to stand out of rounding.
        search: its samples are calibration items; on the fewest of them linears and candidates are measured too.

    An expert of 210 linears is scored some 600 times for four budgets, 480 of them on half of the items: 210 linears,
    16 candidates, and 8 generations of 8 children on 64 items and 2 of them on 128, for each budget. With 50 and 80 ms
    a time that is half a minute. Fewer items are fitted sooner, and not the expert.
    """

    candidates: tuple[str, ...] = CANDIDATES
    reference: str = "sparse-sign:group=8"
    search: EvolutionConfig = field(
        default_factory=lambda: EvolutionConfig(generations=8, offspring=8, survivors=(2, 1), samples=(64, 128))
    )

    def __post_init__(self) -> None:
        if self.reference not in self.candidates:
            raise ValueError(f"the reference must be among the candidates, got {self.reference}")


class Allocator:
    """Spends budgets on the linears of one expert.

    Args:
        subject: its model holds the expert's weights now, and other linears after each search.
        stacks: of its deltas.
        tokens_per_batch: padded tokens that go through the model at once.
    """

    def __init__(self, subject: Subject, stacks: Stacks, config: AllocationConfig, *, tokens_per_batch: int) -> None:
        self.subject = subject
        self.reference = config.candidates.index(config.reference)
        self.codecs = [parse_codec(spec) for spec in config.candidates]
        self.made = [describe(codec, stacks) for codec in self.codecs]
        self.choices = {name: self.choices_of(name, stacks) for name in subject.linears}
        self.weights = sum(subject.base[name].numel() for name in subject.linears)
        self.filled: dict[tuple[int, Knapsack], Assignment] = {}
        self.scored: dict[tuple[Assignment, int], float] = {}
        self.search = config.search.within(len(subject.calibration))
        self.benches = {
            count: Bench(subject.model, subject.calibration[:count], tokens_per_batch=tokens_per_batch)
            for count in self.search.samples
        }

    def choices_of(self, name: str, stacks: Stacks) -> tuple[Choice, ...]:
        """Of a linear, what each candidate takes and leaves."""
        delta, sums = stacks.deltas[name], stacks.moments.square_sums[name]
        return tuple(
            Choice(
                codec=codec,
                nbytes=codec_bytes(codec, delta.shape),
                error=weighted_error(delta, described[name], sums),
                plain_error=weighted_error(delta, described[name], None),
            )
            for codec, described in zip(self.codecs, self.made, strict=True)
        )

    def allocate(self, wanted: Allocated) -> tuple[Allocation, Search | None]:
        """The codecs of all linears, which take no more than the budget; and how they were searched for, if they were.

        Raises:
            CapacityError: not even the smallest candidates fit.
        """
        budget = self.budget_bytes(wanted.bits)
        least = sum(min(choice.nbytes for choice in row) for row in self.choices.values())
        if budget < least:
            self.refuse(wanted.bits, least, "the cheapest candidates take")
        if wanted.by != "search":
            return allocation_of(self.choices, self.knapsack(budget, wanted.by), budget), None
        starts = {self.knapsack(budget, by) for by in get_args(Knapsack)}
        starts.update(alike_within(self.choices, budget))
        found = search_choices(self.choices, starts, budget, self.fitness, self.search)
        generations = self.search.generations
        return found.allocation, Search(
            generations=generations, items=found.texts, start=found.start, found=found.found
        )

    def knapsack(self, budget: int, by: Knapsack) -> Assignment:
        """The candidates whose errors of a kind come to the least within `budget`; each is found once."""
        if (budget, by) not in self.filled:
            costs, errors = costs_of(self.choices), self.errors(by)
            self.filled[budget, by] = allocate(costs, errors, budget, most_units=MOST_UNITS)
        return self.filled[budget, by]

    def errors(self, by: Knapsack) -> Sequence[Sequence[float]]:
        """What every candidate of every linear is taken to cost."""
        if by == "measured":
            return self.measured
        return errors_of(self.choices, weighted=by == "weighted")

    @cached_property
    def measured(self) -> list[list[float]]:
        """KL that every candidate of every linear is expected to cost; from one scoring of each, and one of each."""
        items = self.search.samples[0]
        return measure(self.errors("weighted"), lambda numbers: self.fitness(numbers, items), reference=self.reference)

    @property
    def singles(self) -> list[Assignment]:
        """Every candidate for all linears."""
        return [(number,) * len(self.choices) for number in range(len(self.codecs))]

    def nbytes(self, assignment: Assignment) -> int:
        """What the linears take."""
        return sum(row[number].nbytes for row, number in zip(self.choices.values(), assignment, strict=True))

    def refuse(self, bits: float, least: int, what: str) -> NoReturn:
        """Say that `bits` do not pay for `least` bytes."""
        needed = ceil(8e4 * least / self.weights) / 1e4
        raise CapacityError(f"the budget must be at least {needed:g} bits, what {what}, got {bits:g}")

    def budget_bytes(self, bits: float) -> int:
        """What the linears may take."""
        return int(bits * self.weights / 8)

    def alike(self, bits: float) -> Allocation:
        """The candidate that takes the most within the budget, for all linears.

        Raises:
            CapacityError: none fits.
        """
        budget = self.budget_bytes(bits)
        fitting = alike_within(self.choices, budget)
        if not fitting:
            self.refuse(bits, min(map(self.nbytes, self.singles)), "the cheapest candidate takes")
        largest = max(fitting, key=self.nbytes)
        return allocation_of(self.choices, largest, budget)

    def described(self, allocation: Allocation) -> dict[str, torch.Tensor]:
        """D̂ of every linear by its codec."""
        return self.of_numbers(tuple(self.codecs.index(codec) for codec in allocation.codecs.values()))

    def of_numbers(self, assignment: Assignment) -> dict[str, torch.Tensor]:
        """D̂ of every linear by the candidate of its number; those that stay the expert's own are left out."""
        numbered = zip(self.choices, assignment, strict=True)
        return {name: self.made[number][name] for name, number in numbered if number != OWN}

    def fitness(self, assignment: Assignment, samples: int) -> float:
        """KL to the expert of an answer token of the first so many calibration items, in nats; each is found once."""
        if (assignment, samples) not in self.scored:
            self.scored[assignment, samples] = self.kl(self.of_numbers(assignment), samples)
        return self.scored[assignment, samples]

    def kl(self, described: Mapping[str, torch.Tensor], samples: int) -> float:
        """The same with these linears described, and all others the expert's."""
        subject = self.subject
        take_weights(subject.model, {n: subject.expert[n] for n in self.choices if n not in described})
        take_delta(subject.model, subject.base, described)
        return self.benches[samples].score().kl_per_token
