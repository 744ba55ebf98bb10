"""`harness env`: what a run would say of this machine."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.provenance import collect_provenance
from harness.telemetry import open_gpu

__all__ = ["environment"]


def environment(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> int:
    """Print commit, machine, GPU, driver and versions, as every run records them."""
    gpu = open_gpu()
    try:
        values = collect_provenance(gpu)
    finally:
        gpu.close()
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return 0
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in values.items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        for key, part in nested:
            table.add_row(f"{name} {key}".strip(), "unknown" if part is None else str(part))
    Console().print(table)
    return 0
