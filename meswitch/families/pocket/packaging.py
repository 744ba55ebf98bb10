"""From trained weights to the family's directory: the base as it ships, experts and router as deltas of it."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from meswitch.errors import FamilyError
from meswitch.families.family import FAMILY_FILE, SCHEMA, ExpertRecord, FamilyRecord, write_family
from meswitch.families.pocket.model import new_model, save_checkpoint
from meswitch.families.pocket.recipe import HELD_OUT, ROUTER
from meswitch.format.staging import staged
from workloads.tasks import get_task

__all__ = ["EMBEDDING_CODEC", "LINEAR_CODEC", "check_output", "package_family"]

LINEAR_CODEC = "rtn:bits=4,step=unbiased"
EMBEDDING_CODEC = "rtn:bits=8,step=mse"

DTYPE = torch.float16

DESCRIPTION = "a two-million-parameter Llama on bytes with experts for exactly answerable tasks"

Weights = Mapping[str, torch.Tensor]


def package_family(
    config: Any,
    stages: Iterable[tuple[str, Weights]],
    output: Path,
    *,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write the family `pocket` to `output`, which appears when it is complete.

    Args:
        config: the model's `LlamaConfig`.
        stages: names and float32 weights, the base first, then experts (tasks by name) and the router in any order.
        output: the directory to make, or the family to replace.
        progress: called with each stage's name when it is written.

    Raises:
        FamilyError: the output is a directory of something else.
        StorageError: the disk refuses; the old directory is then still there.
    """
    check_output(output)
    experts = []
    with staged(output) as root, tempfile.TemporaryDirectory() as scratch:
        for name, weights in stages:
            if name == "base":
                write_checkpoint(config, weights, root / "base")
            else:
                target = root / (ROUTER if name == ROUTER else f"experts/{name}")
                write_delta(config, name, weights, root / "base", target, Path(scratch))
                experts += [] if name == ROUTER else [name]
            if progress is not None:
                progress(name)
        write_family(root, family_record(sorted(experts)))


def check_output(output: Path) -> None:
    """Nothing, if a family may be written to `output`: what is no family is never replaced by one.

    Raises:
        FamilyError: it may not.
    """
    is_free = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not is_free and not (output / FAMILY_FILE).is_file():
        raise FamilyError(f"the output must be a new directory or a family to replace, got {output}, which is neither")


def write_checkpoint(config: Any, weights: Weights, directory: Path) -> None:
    """One model as a float16 checkpoint with its tokenizer."""
    model = new_model(config, 0)
    # the head is the embedding: a state dict with either is complete
    model.load_state_dict(dict(weights), strict=False)
    save_checkpoint(model, directory, DTYPE)


def write_delta(config: Any, name: str, weights: Weights, base: Path, target: Path, scratch: Path) -> None:
    """One full fine-tune as a delta directory."""
    from meswitch.compress import compress_expert
    from meswitch.compress_config import CompressConfig

    checkpoint = scratch / name
    write_checkpoint(config, weights, checkpoint)
    target.parent.mkdir(exist_ok=True)
    compress_expert(
        CompressConfig(
            base=base,
            expert=checkpoint,
            output=target,
            name=name,
            linear=LINEAR_CODEC,
            embedding=EMBEDDING_CODEC,
            # a model this small moves far from its base; its parent is known here
            force=True,
        )
    )
    shutil.rmtree(checkpoint)


def family_record(experts: list[str]) -> FamilyRecord:
    """The description of a family with these experts."""
    return FamilyRecord(
        schema_version=SCHEMA,
        name="pocket",
        description=DESCRIPTION,
        base="base",
        router=ROUTER,
        experts=tuple(
            ExpertRecord(
                name=name,
                task=name,
                description=get_task(name).description,
                delta=f"experts/{name}",
                known_to_router=name not in HELD_OUT,
            )
            for name in experts
        ),
    )
