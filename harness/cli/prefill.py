"""`harness prefill`: the time of one prompt on a GPU until its first token, with an expert and with the base alone."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.gpu_table import gpu_for_table
from harness.prefill import DEFAULT_TOKENS, PrefillOptions, parse_cases
from meswitch.config import SyntheticConfig

__all__ = ["prefill"]

DEFAULTS = SyntheticConfig()


def prefill(
    family: Annotated[str, typer.Option(help="A shape, or a Hugging Face config: random weights are made of it.")],
    codec: Annotated[str, typer.Option(help="Codec of the linear weights.")] = DEFAULTS.linear,
    embedding: Annotated[str, typer.Option(help="Codec of the embedding.")] = DEFAULTS.embedding,
    head: Annotated[str, typer.Option(help="Codec of the head.")] = DEFAULTS.head,
    tokens: Annotated[str, typer.Option(help="Lengths of the prompts, with commas.")] = DEFAULT_TOKENS,
    start: Annotated[int, typer.Option(help="Tokens before each prompt that are in the cache already.")] = 0,
    single: Annotated[
        bool, typer.Option("--single", help="Launch each prompt kernel by kernel, too, without graphs.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float16.")] = "bfloat16",
    repeats: Annotated[int, typer.Option(help="Times that each case is measured, interleaved.")] = 9,
    seed: Annotated[int, typer.Option(help="Of all random weights; 0 is a seed.")] = 0,
    gpu: Annotated[int, typer.Option(help="Index of the GPU.")] = 0,
    table: Annotated[
        Path | None, typer.Option(help="Keep rows there; what it already has is not measured again.")
    ] = None,
    commit: Annotated[str | None, typer.Option(help="Of the code, where it is not a git checkout.")] = None,
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
