"""`harness memory`: how many experts a GPU holds, by its driver, beside what was planned."""

from typing import Annotated

import typer

from harness.cli import engine_flags, shape_flags
from harness.cli.gpu_table import gpu_for_table
from harness.residency import MemoryOptions, parse_experts
from harness.sizes import parse_bytes
from meswitch.config import SyntheticConfig

__all__ = ["memory"]

DEFAULTS = SyntheticConfig()


def memory(
    family: shape_flags.Family,
    experts: Annotated[str, typer.Option(help="That are on the GPU together; max for as many as fit.")] = "16",
    memory_budget: Annotated[str, typer.Option(help="What everything together may take.")] = "76GiB",
    kv_tokens: Annotated[int, typer.Option(help="Room for keys and values: rows times context.")] = 32768,
    max_rows: Annotated[int, typer.Option(help="Requests decoded together.")] = 16,
    chunk: Annotated[int, typer.Option(help="Tokens of a prompt that are computed together.")] = 512,
    weights: Annotated[str, typer.Option(help="delta, or full for whole models.")] = "delta",
    codec: engine_flags.Codec = DEFAULTS.linear,
    embedding: shape_flags.Embedding = DEFAULTS.embedding,
    head: shape_flags.Head = DEFAULTS.head,
    dtype: shape_flags.Dtype = "bfloat16",
    seed: shape_flags.Seed = 0,
    gpu: shape_flags.Gpu = 0,
    table: shape_flags.Table = None,
    commit: engine_flags.Commit = None,
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
