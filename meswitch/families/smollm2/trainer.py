"""Full fine-tuning of one model after another from the same base: plain steps on the CPU, captured graphs on CUDA."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from meswitch.families.pocket.forward import hidden_of
from meswitch.families.smollm2.rows import IGNORED, Rows

__all__ = ["Fit", "TrainConfig", "Trainer", "answer_logits"]

CHECKS = 10
"""How many times in a training the validation rows are looked at."""

CONVERGED = 0.02
"""An expert has converged if its last fifth of steps took less than this share off its validation loss …"""

NOTHING_LEFT = 1e-3
"""… or if the loss was below this before: nats of an answer token."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One fine-tuning.

    Attributes:
        steps: optimiser steps; the learning rate warms up over the first 5 % and falls to 0 along a cosine.
        batch: rows a step, of a new order in each epoch.
        learning_rate: at its peak.
        max_tokens: rows of more are left out.
    """

    steps: int
    batch: int = 64
    learning_rate: float = 2e-4
    max_tokens: int = 128

    def __post_init__(self) -> None:
        if self.steps < CHECKS or self.batch < 1:
            raise ValueError(f"steps must be at least {CHECKS} and batch at least 1, got {self.steps}, {self.batch}")

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, from 0."""
        warm = max(1, self.steps // 20)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a fine-tuning gave.

    Attributes:
        weights: float32, by parameter name, of the check with the least validation loss.
        half: the weights after half of the steps, if they were asked for.
        curve: (step, validation loss per answer token) of each check, the base's at step 0 first.
        best_step: the check whose weights these are.
        converged: whether the last fifth of the steps changed the least validation loss by less than 2 %, or found less
            than 0.001 nats of it.
    """

    weights: Weights
    half: Weights | None
    curve: tuple[tuple[int, float], ...]
    best_step: int
    converged: bool


def answer_logits(model: Any, rows: Rows) -> torch.Tensor:
    """Logits `[R, A, vocabulary]` at the places of `rows`; the head is not run anywhere else."""
    hidden = hidden_of(model, rows.ids)
    chosen = hidden.gather(1, rows.places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
    return F.linear(chosen, model.lm_head.weight)


class Trainer:
    """Trains a model in place, each time from the weights that it had when this was made.

    Args:
        model: a `LlamaForCausalLM` with float32 weights on its device.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parameters = dict(model.named_parameters())
        self.device = next(iter(self.parameters.values())).device
        self.cuda = self.device.type == "cuda"
        self.base = {name: p.detach().clone() for name, p in self.parameters.items()}
        # a tensor, so that a captured graph sees each new value
        self.rate = torch.zeros((), device=self.device)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=self.rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
            capturable=self.cuda,
        )
        self.graphs: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[Any, Rows]] = {}

    def train(
        self,
        rows: Rows,
        validation: Rows,
        config: TrainConfig,
        *,
        seed: int,
        keep_half: bool = False,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Fit:
        """A fine-tuning from the base with a fresh optimiser.

        Args:
            rows: at least one batch of them, on the model's device.
            validation: what the weights are chosen by.
            config: steps, batch and learning rate.
            seed: of the order of rows.
            keep_half: whether the weights after half of the steps are wanted too.
            on_step: called after each step with its number.
        """
        if len(rows) < config.batch:
            raise ValueError(f"there must be at least a batch of {config.batch} rows, got {len(rows)}")
        self.restore()
        step = self.captured(rows, config.batch) if self.cuda else self.plain
        order = Order(len(rows), config.batch, torch.Generator().manual_seed(seed))
        curve = [(0, self.loss_over(validation))]
        best, half = self.snapshot(), None
        checks = {round(config.steps * k / CHECKS) for k in range(1, CHECKS + 1)}
        for number in range(config.steps):
            self.rate.fill_(config.rate_at(number))
            step(rows.take(order.next().to(self.device)))
            if keep_half and number + 1 == config.steps // 2:
                half = self.snapshot()
            if number + 1 in checks:
                loss = self.loss_over(validation)
                if loss < min(value for _, value in curve):
                    best = self.snapshot()
                curve.append((number + 1, loss))
            on_step(number + 1)
        return Fit(
            weights=best,
            half=half,
            curve=tuple(curve),
            best_step=min(curve, key=lambda point: point[1])[0],
            converged=has_converged(curve),
        )

    def snapshot(self) -> Weights:
        """A copy of the present weights."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Take the base's weights back, and forget the optimiser's moments in place: a graph holds on to them."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.base[name])
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    @torch.no_grad()
    def loss_over(self, rows: Rows, batch: int = 256) -> float:
        """Mean cross entropy of an answer token over all rows."""
        total, tokens = 0.0, 0
        for start in range(0, len(rows), batch):
            part = rows.take(torch.arange(start, min(start + batch, len(rows)), device=self.device))
            count = int((part.labels != IGNORED).sum())
            total += float(self.loss(part)) * count
            tokens += count
        return total / tokens

    def loss(self, rows: Rows) -> torch.Tensor:
        """Mean cross entropy of the rows' answer tokens, under bfloat16 autocast on CUDA."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cuda, cache_enabled=False):
            logits = answer_logits(self.model, rows)
        return F.cross_entropy(logits.flatten(0, 1).float(), rows.labels.flatten(), ignore_index=IGNORED)

    def plain(self, rows: Rows) -> None:
        """One optimiser step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(rows).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0, foreach=True)
        self.optimizer.step()

    def captured(self, rows: Rows, batch: int) -> Callable[[Rows], None]:
        """`plain` as one CUDA graph for batches of `rows`; weights are the base's afterwards."""
        key = ((batch, rows.ids.shape[1]), tuple(rows.labels.shape[1:]))
        if key not in self.graphs:
            # a graph keeps the memory of its shape; the next task's rows are of another
            self.graphs.clear()
            held = rows.take(torch.arange(batch, device=self.device))
            self.rate.fill_(0.0)
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.plain(held)
            torch.cuda.current_stream().wait_stream(stream)
            self.optimizer.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.plain(held)
            self.graphs[key] = (graph, held)
            self.restore()
        graph, held = self.graphs[key]

        def replay(new: Rows) -> None:
            held.ids.copy_(new.ids)
            held.places.copy_(new.places)
            held.labels.copy_(new.labels)
            graph.replay()

        return replay


class Order:
    """Row numbers of one batch after another: every epoch in a new order, its remainder left out."""

    def __init__(self, rows: int, batch: int, generator: torch.Generator) -> None:
        self.rows, self.batch, self.generator = rows, batch, generator
        self.left = torch.empty(0, dtype=torch.int64)

    def next(self) -> torch.Tensor:
        """The next batch, `[batch]` int64 on the CPU."""
        if len(self.left) < self.batch:
            self.left = torch.randperm(self.rows, generator=self.generator)
        taken, self.left = self.left[: self.batch], self.left[self.batch :]
        return taken


def has_converged(curve: list[tuple[int, float]]) -> bool:
    """Whether the last fifth of the checks took less than 2 % off the least loss before it, or hardly any was left."""
    values = [value for _, value in curve]
    before = min(values[: len(values) - CHECKS // 5])
    return before < NOTHING_LEFT or min(values) > (1 - CONVERGED) * before
