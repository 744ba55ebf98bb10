"""`meswitch merge`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["merge"]


class MergeDtype(StrEnum):
    """Dtypes that a merged checkpoint can be written in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def merge(
    expert: Annotated[str, typer.Argument(help="An expert of the library, or a delta directory.")],
    base: Annotated[Path, typer.Option(help="Checkpoint directory of the base.")],
    output: Annotated[Path, typer.Option(help="Checkpoint directory to make.")],
    dtype: Annotated[MergeDtype | None, typer.Option(help="Of all weights; by default the expert's own.")] = None,
) -> None:
    """Write base + delta as a plain Hugging Face checkpoint."""
    import torch

    from meswitch.cli.console import progress_bar
    from meswitch.library import find_expert
    from meswitch.merge import merge as merge_delta

    wanted = None if dtype is None else getattr(torch, dtype.value)
    with progress_bar(f"merging {expert}") as move:
        merge_delta(base, find_expert(expert), output, wanted, progress=move)
    typer.echo(str(output))
