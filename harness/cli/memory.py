"""`harness memory`: how many experts a GPU holds, by its driver, beside what was planned."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.gpu_table import gpu_for_table
from harness.residency import MemoryOptions, parse_experts
from harness.sizes import parse_bytes
from meswitch.config import SyntheticConfig

__all__ = ["memory"]

DEFAULTS = SyntheticConfig()


def memory(
    family: Annotated[str, typer.Option(help="A shape, or a Hugging Face config: random weights are made of it.")],
    experts: Annotated[str, typer.Option(help="That are on the GPU together; max for as many as fit.")] = "16",
    memory_budget: Annotated[str, typer.Option(help="What everything together may take.")] = "76GiB",
    kv_tokens: Annotated[int, typer.Option(help="Room for keys and values: rows times context.")] = 32768,
    max_rows: Annotated[int, typer.Option(help="Requests decoded together.")] = 16,
    chunk: Annotated[int, typer.Option(help="Tokens of a prompt that are computed together.")] = 512,
    weights: Annotated[str, typer.Option(help="delta, or full for whole models.")] = "delta",
    codec: Annotated[str, typer.Option(help="Codec of the linear weights.")] = DEFAULTS.linear,
    embedding: Annotated[str, typer.Option(help="Codec of the embedding.")] = DEFAULTS.embedding,
    head: Annotated[str, typer.Option(help="Codec of the head.")] = DEFAULTS.head,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float16.")] = "bfloat16",
    seed: Annotated[int, typer.Option(help="Of all random weights; 0 is a seed.")] = 0,
    gpu: Annotated[int, typer.Option(help="Index of the GPU.")] = 0,
    table: Annotated[
        Path | None, typer.Option(help="Keep the row there; one that it already has is not measured again.")
    ] = None,
    commit: Annotated[str | None, typer.Option(help="Of the code, where it is not a git checkout.")] = None,
) -> None:
    """Fill a GPU with experts, serve every row to its end, and compare the driver's count with the plan."""
    options = MemoryOptions(
        family=family,
        experts=parse_experts(experts),
        budget_bytes=parse_bytes(memory_budget),
        kv_tokens=kv_tokens,
        max_rows=max_rows,
        chunk_tokens=chunk,
        weights=weights,  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
        synthetic=SyntheticConfig(linear=codec, embedding=embedding, head=head, seed=seed, host_images=1),
        index=gpu,
    )
    # how many fit is measured whatever the table has
    with gpu_for_table(gpu, table, may_suffice=options.experts is not None) as monitor:
        # torch takes seconds to import: never for --help
        from harness.residency.command import run_memory

        run_memory(options, table, gpu=monitor, commit=commit, say=typer.echo)
