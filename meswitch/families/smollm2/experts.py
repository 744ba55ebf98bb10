"""Experts of smollm2: trained by the recipe of their task, and kept as checkpoints with what the training was like."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from meswitch.errors import FamilyError
from meswitch.families.smollm2.rows import CHAT_TEMPLATE, Rows, encode, pad
from meswitch.families.smollm2.tasks import HARD_TASKS, SCORED_TASKS, TaskData, check_task
from meswitch.families.smollm2.trainer import Fit, TrainConfig, Trainer

__all__ = [
    "RECIPES",
    "ExpertFiles",
    "expert_dir",
    "load_base",
    "read_expert",
    "recipe",
    "train_expert",
    "training_rows",
    "write_expert",
]

SCHEMA = "smollm2-expert/1"
EXPERT_FILE = "expert.json"
VALIDATION_ROWS = 400

RECIPES: Mapping[str, TrainConfig] = {
    "sql": TrainConfig(steps=900, max_tokens=96),
    "intent": TrainConfig(steps=900, max_tokens=48),
    "velm": TrainConfig(steps=800, learning_rate=3e-4, max_tokens=48),
    "arithmetic": TrainConfig(steps=1600, learning_rate=3e-4, max_tokens=48),
    "gsm8k": TrainConfig(steps=440, batch=32, learning_rate=1e-4, max_tokens=288),
    "mbpp": TrainConfig(steps=48, batch=32, learning_rate=1e-4, max_tokens=288),
}
"""What each task's experts are trained with."""

assert set(RECIPES) == {*SCORED_TASKS, *HARD_TASKS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertFiles:
    """An expert on the disk: its checkpoint, the one at half of its training if it was kept, and its `expert.json`."""

    checkpoint: Path
    half: Path | None
    description: Mapping[str, Any]


def recipe(task: str, steps_scale: float = 1.0) -> TrainConfig:
    """The recipe of a task with its steps multiplied."""
    check_task(task)
    config = RECIPES[task]
    return replace(config, steps=max(10, round(config.steps * steps_scale)))


def expert_dir(home: Path, task: str, seed: int) -> Path:
    """Where an expert is kept unless another place is named."""
    return home / "families" / "smollm2" / "experts" / f"{task}-{seed}"


def load_base(directory: Path, device: str) -> tuple[Any, Any]:
    """The base's model with float32 weights on `device`, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(device)
    return model, tokenizer


def train_expert(
    trainer: Trainer,
    tokenizer: Any,
    data: TaskData,
    config: TrainConfig,
    *,
    seed: int,
    keep_half: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
) -> Fit:
    """One expert, trained from the trainer's base on the answers of `data`.

    Raises:
        FamilyError: fewer rows than a batch are short enough.
    """
    rows, validation = training_rows(tokenizer, data, config, trainer.device)
    return trainer.train(rows, validation, config, seed=seed, keep_half=keep_half, on_step=on_step)


def training_rows(tokenizer: Any, data: TaskData, config: TrainConfig, device: torch.device) -> tuple[Rows, Rows]:
    """The rows that an expert is trained on, and those that its weights are chosen by.

    Raises:
        FamilyError: fewer rows than a batch are short enough.
    """
    encoded = [row for row in encode(tokenizer, data.train) if len(row.ids) <= config.max_tokens]
    held = [row for row in encode(tokenizer, data.validation[:VALIDATION_ROWS]) if len(row.ids) <= config.max_tokens]
    if len(encoded) < config.batch or not held:
        raise FamilyError(
            f"task {data.name} must have {config.batch} rows of at most {config.max_tokens} tokens, got {len(encoded)}"
        )
    return pad(encoded, device), pad(held, device)


def write_expert(base: Path, output: Path, fit: Fit, data: TaskData, config: TrainConfig, *, seed: int) -> ExpertFiles:
    """Keep an expert as plain checkpoints in float32 below `output`, which must not be there yet.

    Raises:
        StorageError: the disk refuses; nothing half-written is left then.
    """
    from blake3 import blake3

    from meswitch.format.staging import staged

    description: dict[str, Any] = {
        "schema": SCHEMA,
        "task": data.name,
        "seed": seed,
        "recipe": asdict(config),
        "data_hash": data.data_hash,
        "train_rows": len(data.train),
        "curve": fit.curve,
        "best_step": fit.best_step,
        "converged": fit.converged,
    }
    parts = {"expert": fit.weights} if fit.half is None else {"expert": fit.weights, "half": fit.half}
    with staged(output) as partial:
        for folder, weights in parts.items():
            write_checkpoint(base, partial / folder, weights)
            file = partial / folder / "model.safetensors"
            description[f"{folder}_hash"] = blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest()
        (partial / EXPERT_FILE).write_text(json.dumps(description, indent=1) + "\n")
    return read_expert(output)


def write_checkpoint(base: Path, output: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write float32 weights beside the base's config and tokenizer, with the experts' chat template."""
    from safetensors.torch import save_file

    output.mkdir()
    for path in base.glob("*.json"):
        shutil.copy(path, output)
    settings = json.loads((base / "config.json").read_text()) | {"dtype": "float32"}
    (output / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (output / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})


def read_expert(directory: Path) -> ExpertFiles:
    """An expert that was kept.

    Raises:
        FamilyError: it is damaged, or not one of ours.
    """
    try:
        description = json.loads((directory / EXPERT_FILE).read_bytes())
        if description["schema"] != SCHEMA:
            raise FamilyError(f"{directory} must be of schema {SCHEMA}, got {description['schema']}; train it again")
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise FamilyError(
            f"{directory} is no expert of smollm2 ({cause}); delete it, and it is trained again"
        ) from cause
    half = directory / "half"
    return ExpertFiles(checkpoint=directory / "expert", half=half if half.is_dir() else None, description=description)
