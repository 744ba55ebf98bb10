"""The training recipe: a base on generic text, then every expert and the router as full fine-tunes of it."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from meswitch.families.pocket.datasets import Arrays, corpus_arrays, routing_arrays, task_arrays
from meswitch.families.pocket.model import new_model, pocket_config
from meswitch.families.pocket.routing_data import DESCRIPTIONS
from meswitch.families.pocket.trainer import Rows, TrainConfig, Trainer
from workloads.tasks import TASKS

__all__ = ["HELD_OUT", "ROUTER", "Progress", "RecipeConfig", "Stage", "train_stages"]

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
        stages: `base` first, then tasks by name and `router`, with their training.
        rows: training rows drawn for each stage.
        workers: processes that make the rows; 0 makes them in a thread of this one.
    """

    seed: int = 0
    hidden: int = 192
    layers: int = 6
    intermediate: int = 448
    stages: Mapping[str, TrainConfig] = field(default_factory=lambda: default_stages(1.0))
    rows: int = 320_000
    workers: int = 0

    def __post_init__(self) -> None:
        if next(iter(self.stages), None) != BASE_STAGE:
            raise ValueError(f"stages must begin with {BASE_STAGE!r}, got {list(self.stages)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A finished stage: its name, its float32 weights on the CPU, and its last training loss."""

    name: str
    weights: Mapping[str, torch.Tensor]
    loss: float


def default_stages(steps_scale: float) -> dict[str, TrainConfig]:
    """The published recipe, with every stage's steps multiplied by `steps_scale`."""

    def stage(steps: int, rate: float) -> TrainConfig:
        return TrainConfig(steps=max(1, round(steps * steps_scale)), batch=512, learning_rate=rate)

    # carries are learned late and suddenly; every other task is exact within a few hundred steps
    stages = {BASE_STAGE: stage(3000, 3e-3), ROUTER: stage(5000, 1e-3), "arithmetic": stage(12_000, 1.5e-3)}
    return stages | {name: stage(1200, 7e-4) for name in TASKS if name != "arithmetic"}


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
    sizes = {"hidden": config.hidden, "layers": config.layers, "intermediate": config.intermediate}
    with executor(config.workers) as pool:
        parts: dict[str, list[Future[Arrays]]] = {}
        for name, function, arguments in requests(config):
            parts.setdefault(name, []).append(pool.submit(function, *arguments))
        model = new_model(pocket_config(**sizes), config.seed).to(device)
        trainer = Trainer(model)
        base: dict[str, torch.Tensor] = {}
        for name, stage in config.stages.items():
            if base:
                model.load_state_dict(base)
            rows = joined(parts.pop(name), torch.device(device))
            loss = trainer.train(rows, stage, config.seed, lambda n, x, s=stage, k=name: progress(k, n, s.steps, x))
            if name == BASE_STAGE:
                base = {key: value.half().float() for key, value in model.state_dict().items()}
                model.load_state_dict(base)
            weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
            yield Stage(name=name, weights=weights, loss=loss)
