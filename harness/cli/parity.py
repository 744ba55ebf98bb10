"""`harness parity`: whether a GPU gives the answers of the CPU."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from harness.arms import parse_arms
from harness.cli import engine_flags
from harness.engines import DEFAULT_CUDA_BUDGET, Dtype, EngineOptions, default_budget, engine_config
from harness.errors import UsageError
from harness.parity import ParityRow, answer_all, compare_answers, parity_requests, row_dict
from harness.planning import DEFAULT_CODEC
from harness.prepare import prepare
from harness.prepared import PrepareRequest
from harness.provenance import collect_provenance
from harness.results import check_file, write_atomic
from harness.telemetry import check_gpu, open_gpu
from meswitch.home import home_dir

__all__ = ["parity"]


def parity(
    family: Annotated[str, typer.Argument(help="A model family with weights, by name or path.")] = "pocket",
    dtype: Annotated[list[str] | None, typer.Option(help="Of the GPU; repeat for several.")] = None,
    codec: engine_flags.Codec = DEFAULT_CODEC,
    n: Annotated[int, typer.Option(help="Requests of each expert.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the requests; 0 is a seed.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Of an answer.")] = 64,
    table: Annotated[Path | None, typer.Option(help="Write the rows, and all answers beside them.")] = None,
) -> int:
    """Answer the same requests greedily on the CPU in float32 and on a GPU; count the tokens that differ.

    Exit code 1 if a float32 answer differs.
    """
    dtypes = _dtypes(dtype)
    if table is not None:
        check_file(table)
    provenance = _provenance()
    prepared = prepare(PrepareRequest(family=family, codec=codec, home=home_dir()))
    requests = parity_requests(prepared, count=n, seed=seed, max_tokens=max_tokens)
    (arm,) = parse_arms("meswitch")
    budget = default_budget(prepared, EngineOptions())
    # the GPU first: what it cannot serve is said before minutes of answers on the CPU
    found: dict[str, Mapping[str, tuple[int, ...]]] = {
        kind: answer_all(
            engine_config(arm, prepared, EngineOptions(device="cuda", dtype=kind), budget=DEFAULT_CUDA_BUDGET), requests
        )
        for kind in dtypes
    }
    wanted = answer_all(engine_config(arm, prepared, EngineOptions(), budget=budget), requests)
    rows = [
        row
        for kind in dtypes
        for row in compare_answers(wanted, found[kind], family=prepared.family, codec=prepared.codec, dtype=kind)
    ]
    if table is not None:
        _write(table, rows, {"provenance": provenance, "seed": seed, "answers": {"cpu": wanted, **found}})
    Console().print(_table(rows))
    return int(any(row.diverged_tokens for row in rows if row.dtype == "float32"))


def _dtypes(names: list[str] | None) -> list[Dtype]:
    known: dict[str, Dtype] = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
    chosen = names or ["float32", "bfloat16"]
    if unknown := sorted(set(chosen) - set(known)):
        raise UsageError(f"--dtype must be one of {', '.join(known)}, got {unknown[0]!r}")
    return [known[name] for name in chosen]


def _provenance() -> dict[str, Any]:
    """Of this machine, asked before minutes of answers on its CPU.

    Raises:
        UsageError: it has no GPU.
    """
    gpu = open_gpu()
    try:
        check_gpu("cuda", gpu)
        return collect_provenance(gpu)
    finally:
        gpu.close()


def _write(path: Path, rows: list[ParityRow], raw: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps([row_dict(row) for row in rows], indent=1).encode() + b"\n")
    write_atomic(path.with_suffix(".raw.json"), json.dumps(raw).encode() + b"\n")


def _table(rows: list[ParityRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("expert", "dtype", "requests", "equal", "tokens compared", "differ first"):
        table.add_column(heading, justify="left" if heading in ("expert", "dtype") else "right")
    for row in rows:
        cells = (row.requests, row.equal_requests, row.compared_tokens, row.diverged_tokens)
        table.add_row(row.expert, row.dtype, *map(str, cells))
    return table
