"""`harness prefill`: the time of one prompt on a GPU until its first token, with an expert and with the base alone."""

from typing import Annotated

import typer

from harness.cli import engine_flags, shape_flags
from harness.cli.gpu_table import gpu_for_table
from harness.prefill import DEFAULT_TOKENS, PrefillOptions, parse_cases
from meswitch.config import SyntheticConfig

__all__ = ["prefill"]

DEFAULTS = SyntheticConfig()


def prefill(
    family: shape_flags.Family,
    codec: engine_flags.Codec = DEFAULTS.linear,
    embedding: shape_flags.Embedding = DEFAULTS.embedding,
    head: shape_flags.Head = DEFAULTS.head,
    tokens: Annotated[str, typer.Option(help="Lengths of the prompts, with commas.")] = DEFAULT_TOKENS,
    start: Annotated[int, typer.Option(help="Tokens before each prompt that are in the cache already.")] = 0,
    single: Annotated[
        bool, typer.Option("--single", help="Launch each prompt kernel by kernel, too, without graphs.")
    ] = False,
    dtype: shape_flags.Dtype = "bfloat16",
    repeats: shape_flags.Repeats = 9,
    seed: shape_flags.Seed = 0,
    gpu: shape_flags.Gpu = 0,
    table: shape_flags.Table = None,
    commit: engine_flags.Commit = None,
) -> None:
    """Time one prompt from its first launch to its first token, beside the base's products alone."""
    options = PrefillOptions(
        family=family,
        cases=parse_cases(tokens, start=start, has_single=single),
        synthetic=SyntheticConfig(linear=codec, embedding=embedding, head=head, seed=seed),
        dtype=dtype,  # type: ignore[arg-type]
        repeats=repeats,
        index=gpu,
    )
    with gpu_for_table(gpu, table) as monitor:
        # torch takes seconds to import: never for --help
        from harness.prefill.command import run_prefill

        run_prefill(options, table, gpu=monitor, commit=commit, say=typer.echo)
