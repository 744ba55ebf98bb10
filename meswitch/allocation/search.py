"""Choices for the linears by what they do to the expert's own distribution, from what the knapsack finds.

KL(expert ‖ expert with described linears), mean over the tokens of calibration texts, is what `evolve` makes small. The
whole model is held, in float32, and every candidate's form of every linear.

B texts, T tokens of the longest, n tokens of all, H hidden.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from meswitch.allocation.evolution import Assignment, EvolutionConfig, Fitness, evolve
from meswitch.allocation.knapsack import allocate
from meswitch.allocation.measured import OWN, measure
from meswitch.allocation.sensitivity import (
    Allocation,
    Choice,
    alike_within,
    allocation_of,
    assign_linears,
    costs_of,
    errors_of,
)
from meswitch.calibration_stream import load_expert
from meswitch.codecs import CompressedDelta, decompress
from meswitch.pair import Pair
from meswitch.plan import PlannedParameter

__all__ = ["Divergence", "Searched", "measure_linears", "search_choices", "search_linears"]

Texts = Sequence[Sequence[int]]
Choices = Mapping[str, Sequence[Choice]]
LOGIT_ROWS = 1024
BATCH_TOKENS = 4096
"""Padded tokens that go through the model at once, if one text has no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a search came to, or what was measured where there was none.

    Attributes:
        start: KL of a token, in nats, of the fittest start.
        found: of the allocation; never more than `start`, and the same where there was no search.
        texts: that both are of.
    """

    allocation: Allocation
    start: float
    found: float
    texts: int


def search_linears(
    pair: Pair,
    plan: Sequence[PlannedParameter],
    choices: Choices,
    texts: Texts,
    budget: int,
    config: EvolutionConfig,
    *,
    device: torch.device | None = None,
    measuring: Callable[[int, int], None] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Searched:
    """The fittest allocation within `budget` that is found, from the knapsacks and from one candidate for all linears.

    The knapsacks are over weighted errors, plain ones, and what is measured.

    Args:
        choices: of every linear, with their compressed forms and plain errors.
        texts: token ids; where there are fewer than the config's samples, all of them are taken.
        device: where the model is computed; the CPU if absent.
        measuring: called with how many scorings of the measured knapsack are done, and of how many.
        progress: see `evolve`.

    Raises:
        CapacityError: not even the smallest choices fit.
    """
    config = config.within(len(texts))
    starts = {assign_linears(choices, budget, weighted=weighted) for weighted in (True, False)}
    starts.update(alike_within(choices, budget))
    divergence = _divergence(pair, plan, choices, texts, config, device)
    starts.add(_measured(choices, budget, divergence, config, measuring))
    return search_choices(choices, starts, budget, divergence, config, progress=progress)


def measure_linears(
    pair: Pair,
    plan: Sequence[PlannedParameter],
    choices: Choices,
    texts: Texts,
    budget: int,
    config: EvolutionConfig,
    *,
    device: torch.device | None = None,
    measuring: Callable[[int, int], None] | None = None,
) -> Searched:
    """The allocation within `budget` whose KL, measured linear by linear, sums to the least; nothing is searched for.

    Args:
        choices, texts, device, measuring: see `search_linears`.
        config: of its samples alone: on the first linears are measured, on the last what was chosen.

    Raises:
        CapacityError: not even the smallest choices fit.
    """
    config = config.within(len(texts))
    divergence = _divergence(pair, plan, choices, texts, config, device)
    numbers = _measured(choices, budget, divergence, config, measuring)
    kl = divergence(numbers, config.samples[-1])
    return Searched(allocation=allocation_of(choices, numbers, budget), start=kl, found=kl, texts=config.samples[-1])


def _divergence(
    pair: Pair,
    plan: Sequence[PlannedParameter],
    choices: Choices,
    texts: Texts,
    config: EvolutionConfig,
    device: torch.device | None,
) -> "Divergence":
    parameters = {p.name: p for p in plan if p.name in choices}
    where = device or torch.device("cpu")
    return Divergence(pair, parameters, choices, texts, samples=config.samples, device=where)


def _measured(
    choices: Choices,
    budget: int,
    fitness: Fitness,
    config: EvolutionConfig,
    measuring: Callable[[int, int], None] | None,
) -> Assignment:
    """The knapsack over KL, measured on the first samples with the candidate that takes the fewest bytes in all."""
    costs = costs_of(choices)
    nbytes = [sum(column) for column in zip(*costs, strict=True)]
    scorings = len(costs) + len(nbytes)
    done = iter(range(1, scorings + 1))

    def scored(assignment: Assignment) -> float:
        kl = fitness(assignment, config.samples[0])
        if measuring is not None:
            measuring(next(done), scorings)
        return kl

    errors = measure(errors_of(choices, weighted=True), scored, reference=nbytes.index(min(nbytes)))
    return allocate(costs, errors, budget)


def search_choices(
    choices: Choices,
    starts: Iterable[Assignment],
    budget: int,
    fitness: Fitness,
    config: EvolutionConfig,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> Searched:
    """The fittest allocation within `budget` that is found from the fittest of `starts`.

    Args:
        choices: of every linear; starts: numbers of one for each.
        fitness: KL of a token on the first so many texts; called twice with the same arguments it must say the same.
        config: of no more samples than there are texts.
        progress: see `evolve`.

    Raises:
        CapacityError: the fittest start costs more than `budget`.
    """
    most = config.samples[-1]
    start, first = min((fitness(assignment, most), assignment) for assignment in starts)
    found = evolve(first, costs_of(choices), budget, fitness, config, on_generation=progress)
    return Searched(
        allocation=allocation_of(choices, found, budget), start=start, found=fitness(found, most), texts=most
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some texts, and what the expert makes of them.

    Attributes:
        ids: `[B, T]` int64, right-padded: what is behind a text is never looked at, because attention is causal.
        real: `[B, T]` bool, false at pads.
        expected: `[n, H]`, what the head reads. Logits of all texts would take more memory than the model.
    """

    ids: torch.Tensor
    real: torch.Tensor
    expected: torch.Tensor


class Divergence:
    """KL of a token of the first so many texts, in nats, between the expert and an assignment of choices to linears.

    Linears whose number is `OWN` have the expert's weights.

    Args:
        parameters: the linears, by name.
        choices: of each, with their compressed forms.
        texts: token ids.
        samples: numbers of texts that it will be asked about.
    """

    def __init__(
        self,
        pair: Pair,
        parameters: Mapping[str, PlannedParameter],
        choices: Choices,
        texts: Texts,
        *,
        samples: Sequence[int],
        device: torch.device,
    ) -> None:
        self._pair, self._parameters, self._choices, self._device = pair, parameters, choices, device
        model = load_expert(pair)
        # the model's type may be narrower than the file's, and then its weights are the expert that all is held against
        self._dtypes = {name: model.get_parameter(name).dtype for name in choices}
        self._model: Any = model.to(device, torch.float32).eval().requires_grad_(False)
        self._batches = {count: list(self._batched(texts[:count])) for count in samples}
        self._held = [OWN] * len(choices)

    @torch.inference_mode()
    def __call__(self, assignment: Assignment, samples: int) -> float:
        """The KL on the first `samples` texts; the model keeps the assignment's weights."""
        self._take(assignment)
        head = self._model.get_output_embeddings()
        total, tokens = 0.0, 0
        for batch in self._batches[samples]:
            found = self._states(batch.ids, batch.real)
            for start in range(0, len(found), LOGIT_ROWS):
                part = slice(start, start + LOGIT_ROWS)
                wanted = F.log_softmax(head(batch.expected[part]).float(), dim=-1)
                given = F.log_softmax(head(found[part]).float(), dim=-1)
                total += float((wanted.exp() * (wanted - given)).sum(dtype=torch.float64))
            tokens += len(found)
        return total / tokens

    def _batched(self, texts: Texts) -> Iterator[Batch]:
        """The texts in batches, with what the model makes of them now."""
        # like lengths together, so that little is padding
        order = sorted(texts, key=len)
        while order:
            count = 1
            while count < len(order) and (count + 1) * len(order[count]) <= BATCH_TOKENS:
                count += 1
            rows, order = order[:count], order[count:]
            width = len(rows[-1])
            ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self._device)
            lengths = torch.tensor([len(row) for row in rows], device=self._device)
            real = torch.arange(width, device=self._device) < lengths.unsqueeze(1)
            yield Batch(ids=ids, real=real, expected=self._states(ids, real))

    @torch.inference_mode()
    def _states(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """What the head reads after each token that is real `[n, H]`."""
        with _stopped_at(self._model.get_output_embeddings()) as reached, suppress(_HeadReached):
            self._model(input_ids=ids, use_cache=False)
        return reached[0][real]

    @torch.no_grad()
    def _take(self, assignment: Assignment) -> None:
        """Give the linears that differ from what the model holds their weights."""
        for place, (name, number) in enumerate(zip(self._choices, assignment, strict=True)):
            if self._held[place] == number:
                continue
            self._model.get_parameter(name).copy_(self._weights(name, number))
            self._held[place] = number

    def _weights(self, name: str, number: int) -> torch.Tensor:
        """Base + D̂ of a linear `[N, K]`, or the expert's own weights, as the model had them."""
        if number == OWN:
            return self._pair.expert.values(name).to(self._dtypes[name])
        parameter, compressed = self._parameters[name], self._choices[name][number].compressed
        assert compressed is not None
        assert parameter.base_name is not None
        base = self._pair.base.read(parameter.base_name).to(self._device, torch.float32)
        return base.add_(decompress(_moved(compressed, self._device)))


class _HeadReached(Exception):  # noqa: N818, it is no error
    """The head would be computed now."""


@contextmanager
def _stopped_at(head: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What the head is given first; it is not computed."""
    reached: list[torch.Tensor] = []

    def stop(_: nn.Module, given: tuple[Any, ...]) -> None:
        reached.append(given[0])
        raise _HeadReached

    handle = head.register_forward_pre_hook(stop)
    try:
        yield reached
    finally:
        handle.remove()


def _moved(compressed: CompressedDelta, device: torch.device) -> CompressedDelta:
    """The same on another device."""
    return replace(compressed, tensors={name: tensor.to(device) for name, tensor in compressed.tensors.items()})
