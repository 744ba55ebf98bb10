"""`harness decode`: the time of one decode step of many experts on a GPU, beside the floor that its bytes set."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.gpu_table import gpu_for_table
from harness.decode import DEFAULT_CASES, DecodeOptions, parse_cases
from harness.results import check_file
from meswitch.config import SyntheticConfig

__all__ = ["decode"]

DEFAULTS = SyntheticConfig()


def decode(
    family: Annotated[str, typer.Option(help="A shape, or a Hugging Face config: random weights are made of it.")],
    codec: Annotated[str, typer.Option(help="Codec of the linear weights.")] = DEFAULTS.linear,
    embedding: Annotated[str, typer.Option(help="Codec of the embedding.")] = DEFAULTS.embedding,
    head: Annotated[str, typer.Option(help="Codec of the head.")] = DEFAULTS.head,
    cases: Annotated[
        str, typer.Option(help="Rows x experts of each step, with commas; 0 is the base.")
    ] = DEFAULT_CASES,
    context: Annotated[int, typer.Option(help="Positions that each row attends to.")] = 512,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float16.")] = "bfloat16",
    repeats: Annotated[int, typer.Option(help="Times that each case is measured, interleaved.")] = 9,
    replays: Annotated[int, typer.Option(help="Steps of each of those.")] = 20,
    seed: Annotated[int, typer.Option(help="Of all random weights; 0 is a seed.")] = 0,
    gpu: Annotated[int, typer.Option(help="Index of the GPU.")] = 0,
    table: Annotated[
        Path | None, typer.Option(help="Keep rows there; what it already has is not measured again.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Write the kernels of a step of each case there, and their times.")
    ] = None,
    commit: Annotated[str | None, typer.Option(help="Of the code, where it is not a git checkout.")] = None,
) -> None:
    """Time decode steps as CUDA graphs: rows of many experts, of one, and of the base alone."""
    options = DecodeOptions(
        family=family,
        cases=parse_cases(cases, context=context),
        synthetic=SyntheticConfig(linear=codec, embedding=embedding, head=head, seed=seed),
        dtype=dtype,  # type: ignore[arg-type]
        repeats=repeats,
        replays=replays,
        index=gpu,
    )
    if profile is not None:
        check_file(profile, option="--profile")
    with gpu_for_table(gpu, table, may_suffice=profile is None) as monitor:
        # torch takes seconds to import: never for --help
        from harness.decode.command import run_decode

        run_decode(options, table, gpu=monitor, commit=commit, profile=profile, say=typer.echo)
