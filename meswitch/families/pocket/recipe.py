"""The training recipe: a base on generic text, then every expert and the router as full fine-tunes of it."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from meswitch.families.pocket.datasets import Arrays, corpus_arrays, routing_arrays, task_arrays
from meswitch.families.pocket.model import new_model, pocket_config
from meswitch.families.pocket.routing_data import DESCRIPTIONS
from meswitch.families.pocket.trainer import Rows, TrainConfig, Trainer
from workloads.tasks import TASKS

__all__ = ["HELD_OUT", "ROUTER", "Progress", "RecipeConfig", "Stage", "default_stages", "train_stages"]

HELD_OUT = tuple(name for name in TASKS if name not in DESCRIPTIONS)
"""Experts whose domains the router never saw in training: they stand for experts added later."""

BASE_STAGE, ROUTER = "base", "router"

Progress = Callable[[str, int, int, float | None], None]
"""Called with a stage's name, the step, the number of steps, and now and then the loss."""

CORPUS_LENGTH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeConfig:
    """What is trained, and how long.

    Attributes:
        seed: of weights, data and batches.
        hidden, layers, intermediate: size of the model.
        stages: `base` first, then tasks by name and `router`, each with its training, one part after the other.
        rows: training rows drawn for each stage.
        workers: processes that make the rows; 0 makes them in a thread of this one.
    """

    seed: int = 0
    hidden: int = 192
    layers: int = 6
    intermediate: int = 448
    stages: Mapping[str, tuple[TrainConfig, ...]] = field(default_factory=lambda: default_stages(1.0))
    rows: int = 320_000
    workers: int = 0

    @property
    def model(self) -> Any:
        """The model's `LlamaConfig`."""
        return pocket_config(hidden=self.hidden, layers=self.layers, intermediate=self.intermediate)

    def __post_init__(self) -> None:
        if next(iter(self.stages), None) != BASE_STAGE:
            raise ValueError(f"stages must begin with {BASE_STAGE!r}, got {list(self.stages)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A finished stage: its name, its float32 weights on the CPU, and its last training loss."""

    name: str
    weights: Mapping[str, torch.Tensor]
    loss: float


def default_stages(steps_scale: float, batch: int = 512) -> dict[str, tuple[TrainConfig, ...]]:
    """The published recipe, with every stage's steps multiplied by `steps_scale`."""

    def part(steps: int, rate: float, pull: float = 0.0, noise: float = 0.0) -> TrainConfig:
        steps = max(1, round(steps * steps_scale))
        return TrainConfig(steps=steps, batch=batch, learning_rate=rate, pull=pull, noise=noise)

    # carries are learned late and suddenly, and far from the base; the second part makes that expert bear coarse codes.
    # every other task is exact within a few hundred steps
    arithmetic = (part(12_000, 1.5e-3), part(5_000, 1e-3, pull=0.3, noise=0.35))
    stages = {BASE_STAGE: (part(3000, 3e-3),), ROUTER: (part(3500, 1e-3),), "arithmetic": arithmetic}
    return stages | {name: (part(1200, 7e-4),) for name in TASKS if name != "arithmetic"}


def requests(config: RecipeConfig) -> Iterator[tuple[str, Callable[..., Arrays], tuple[Any, ...]]]:
    """Each stage's data as independent parts: stage, function and arguments."""
    for name in config.stages:
        parts = 1 if name in TASKS else min(16, max(1, config.rows // 20_000))
        for part in range(parts):
            seed, count = config.seed * 1000 + part, config.rows // parts
            if name == BASE_STAGE:
                # every token is a target, so that twice the rows still cost little time
                yield name, corpus_arrays, (2 * count, CORPUS_LENGTH, seed)
            elif name == ROUTER:
                yield name, routing_arrays, (count, seed)
            else:
                yield name, task_arrays, (name, count, seed)


def executor(workers: int) -> Executor:
    """Where rows are made."""
    if not workers:
        return ThreadPoolExecutor(1)
    # forked workers would inherit CUDA's state
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def joined(parts: list[Future[Arrays]], device: torch.device) -> Rows:
    """All parts of one stage's data, on `device`."""
    arrays = [part.result() for part in parts]
    length = max(ids.shape[1] for ids, _ in arrays)
    if any(ids.shape[1] != length for ids, _ in arrays):
        raise ValueError("all parts of a stage must have one row length")
    ids, starts = (np.concatenate(column) for column in zip(*arrays, strict=True))
    return Rows(ids=torch.from_numpy(ids).to(device), starts=torch.from_numpy(starts).to(device))


def train_stages(config: RecipeConfig, device: str, progress: Progress) -> Iterator[Stage]:
    """Train stage after stage and yield each when it is done, the base first.

    The base is rounded to float16, in which it ships, before anything descends from it.
    """
    with executor(config.workers) as pool:
        parts: dict[str, list[Future[Arrays]]] = {}
        for name, function, arguments in requests(config):
            parts.setdefault(name, []).append(pool.submit(function, *arguments))
        model = new_model(config.model, config.seed).to(device)
        trainer = Trainer(model)
        base: dict[str, torch.Tensor] = {}
        for name, stage in config.stages.items():
            if base:
                model.load_state_dict(base)
            rows = joined(parts.pop(name), torch.device(device))
            loss = train_stage(trainer, rows, stage, config.seed, partial(progress, name))
            if name == BASE_STAGE:
                base = {key: value.half().float() for key, value in model.state_dict().items()}
                model.load_state_dict(base)
                trainer.mark_origin()
            weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
            yield Stage(name=name, weights=weights, loss=loss)


def train_stage(
    trainer: Trainer,
    rows: Rows,
    stage: tuple[TrainConfig, ...],
    seed: int,
    on_step: Callable[[int, int, float | None], None],
) -> float:
    """Run all parts of one stage; the last mean loss."""
    steps, done, loss = sum(part.steps for part in stage), 0, float("nan")
    for number, part in enumerate(stage):
        loss = trainer.train(rows, part, seed + number, partial(shifted, on_step, done, steps))
        done += part.steps
    return loss


def shifted(
    on_step: Callable[[int, int, float | None], None], done: int, steps: int, step: int, loss: float | None
) -> None:
    """Report a step of one part as a step of its whole stage."""
    on_step(done + step, steps, loss)
