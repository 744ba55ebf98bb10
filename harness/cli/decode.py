"""`harness decode`: the time of one decode step of many experts on a GPU, beside the floor that its bytes set."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import engine_flags, shape_flags
from harness.cli.gpu_table import gpu_for_table
from harness.decode import DEFAULT_CASES, DecodeOptions, parse_cases
from harness.results import check_file
from meswitch.config import SyntheticConfig

__all__ = ["decode"]

DEFAULTS = SyntheticConfig()


def decode(
    family: shape_flags.Family,
    codec: engine_flags.Codec = DEFAULTS.linear,
    embedding: shape_flags.Embedding = DEFAULTS.embedding,
    head: shape_flags.Head = DEFAULTS.head,
    cases: Annotated[
        str, typer.Option(help="Rows x experts of each step, with commas; 0 is the base.")
    ] = DEFAULT_CASES,
    context: Annotated[int, typer.Option(help="Positions that each row attends to.")] = 512,
    dtype: shape_flags.Dtype = "bfloat16",
    repeats: shape_flags.Repeats = 9,
    replays: Annotated[int, typer.Option(help="Steps of each of those.")] = 20,
    seed: shape_flags.Seed = 0,
    gpu: shape_flags.Gpu = 0,
    table: shape_flags.Table = None,
    profile: Annotated[
        Path | None, typer.Option(help="Write the kernels of a step of each case there, and their times.")
    ] = None,
    commit: engine_flags.Commit = None,
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
