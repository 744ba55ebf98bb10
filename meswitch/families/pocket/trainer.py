"""Training steps: rows of tokens on the device, one captured graph a shape on CUDA, plain steps on the CPU."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from meswitch.families.pocket.forward import logits_of
from meswitch.families.pocket.tokens import PAD, VOCABULARY

__all__ = ["Rows", "TrainConfig", "Trainer"]

IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training stage.

    Attributes:
        steps: optimiser steps; the learning rate warms up over the first 5 % and falls to 5 % along a cosine.
        batch: rows a step, drawn with replacement.
        learning_rate: at its peak.
        pull: decoupled decay of each weight towards where the family's base has it.
        noise: standard deviation of what is added to every weight matrix while gradients are taken, in units of the
            row's own root mean square distance from the base: an expert that bears it also bears coarse codes.
    """

    steps: int
    batch: int
    learning_rate: float
    pull: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps and batch must be at least 1, got {self.steps} and {self.batch}")

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, from 0."""
        warm = max(1, self.steps // 20)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Training rows on the device: ids `[rows, T]` int16 and where each row's target begins `[rows]` int16."""

    ids: torch.Tensor
    starts: torch.Tensor


def loss_of(model: Any, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the tokens from each row's start to its last one that is no padding."""
    ids = ids.long()
    target = ids[:, 1:]
    place = torch.arange(1, ids.shape[1], device=ids.device)[None]
    counted = (place >= starts[:, None]) & (target != PAD)
    labels = torch.where(counted, target, IGNORED)
    logits = logits_of(model, ids[:, :-1]).float()
    return F.cross_entropy(logits.reshape(-1, VOCABULARY), labels.reshape(-1), ignore_index=IGNORED)


class Trainer:
    """Trains one model in place, stage after stage; compiled code and graphs are kept between stages.

    Args:
        model: a `LlamaForCausalLM` with float32 weights on its device.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = model.lm_head.weight.device
        self.cuda = self.device.type == "cuda"
        # a tensor, so that a captured graph sees each new value
        self.rate = torch.zeros((), device=self.device)
        self.graphs: dict[tuple[int, int, float, float], tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self.parameters = list(model.parameters())
        self.origin = [torch.zeros_like(p) for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True, capturable=self.cuda
        )
        self.loss: Callable[..., torch.Tensor] = torch.compile(loss_of, dynamic=False) if self.cuda else loss_of

    def train(self, rows: Rows, config: TrainConfig, seed: int, on_step: Callable[[int, float | None], None]) -> float:
        """Run one stage from the model's present weights with a fresh optimiser; the last mean loss.

        Args:
            rows: on the model's device.
            config: steps, batch and learning rate.
            seed: of the drawn batches.
            on_step: called after each step with its number, and the loss at every hundredth and the last.
        """
        # the noise comes from torch's own generators, the only ones that a captured graph advances
        with torch.random.fork_rng(devices=[self.device] if self.cuda else []):
            torch.manual_seed(seed)
            return self.loop(rows, config, seed, on_step)

    def loop(self, rows: Rows, config: TrainConfig, seed: int, on_step: Callable[[int, float | None], None]) -> float:
        """All steps of `train`, under seeded generators."""
        generator = torch.Generator(device=self.device).manual_seed(seed)
        step = self.captured(config, rows) if self.cuda else partial(self.plain, config)
        self.forget()
        loss = float("nan")
        for number in range(config.steps):
            drawn = torch.randint(len(rows.ids), (config.batch,), generator=generator, device=self.device)
            self.rate.fill_(config.rate_at(number))
            value = step(rows.ids[drawn], rows.starts[drawn])
            shown = number % 100 == 99 or number == config.steps - 1
            if shown:
                loss = float(value)
            on_step(number + 1, loss if shown else None)
        return loss

    def mark_origin(self) -> None:
        """Take the present weights for the base, which `pull` and `noise` refer to."""
        with torch.no_grad():
            for origin, parameter in zip(self.origin, self.parameters, strict=True):
                origin.copy_(parameter)

    def forget(self) -> None:
        """Zero the optimiser's moments and step counts, in place so that captured graphs still see them."""
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    def plain(self, config: TrainConfig, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """One step, and its loss before the update."""
        self.optimizer.zero_grad(set_to_none=True)
        added = self.shake(config.noise) if config.noise else []
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cuda, cache_enabled=False):
            loss = self.loss(self.model, ids, starts)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter, change in added:
                parameter.sub_(change)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        if config.pull:
            with torch.no_grad():
                for parameter, origin in zip(self.parameters, self.origin, strict=True):
                    parameter.add_((origin - parameter) * (self.rate * config.pull))
        return loss.detach()

    @torch.no_grad()
    def shake(self, noise: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Add noise to every matrix and return what was added to which."""
        added = []
        for parameter, origin in zip(self.parameters, self.origin, strict=True):
            if parameter.dim() == 2:
                scale = (parameter - origin).square().mean(dim=1, keepdim=True).sqrt()
                change = torch.randn_like(parameter) * scale * noise
                parameter.add_(change)
                added.append((parameter, change))
        return added

    def captured(self, config: TrainConfig, rows: Rows) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """`plain` as one CUDA graph of this batch and row length; weights are as before afterwards."""
        key = (config.batch, rows.ids.shape[1], config.pull, config.noise)
        if key not in self.graphs:
            kept = [p.detach().clone() for p in self.parameters]
            self.rate.fill_(0.0)
            ids, starts = rows.ids[:1].repeat(config.batch, 1), rows.starts[:1].repeat(config.batch)
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.plain(config, ids, starts)
            torch.cuda.current_stream().wait_stream(stream)
            self.optimizer.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                loss = self.plain(config, ids, starts)
            with torch.no_grad():
                for parameter, value in zip(self.parameters, kept, strict=True):
                    parameter.copy_(value)
            self.graphs[key] = (graph, ids, starts, loss)
        graph, ids, starts, loss = self.graphs[key]

        def replay(new_ids: torch.Tensor, new_starts: torch.Tensor) -> torch.Tensor:
            ids.copy_(new_ids)
            starts.copy_(new_starts)
            graph.replay()
            return loss

        return replay
