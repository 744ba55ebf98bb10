"""Options that say where, with what and by which code an engine runs, shared by the commands that start one."""

from typing import Annotated

import typer

from meswitch.policies import POLICIES

__all__ = [
    "Codec",
    "Commit",
    "Device",
    "Dtype",
    "HostBudget",
    "KvTokens",
    "MaxContext",
    "MaxRows",
    "Pin",
    "Policy",
    "Slots",
    "Threads",
]

Codec = Annotated[str, typer.Option(help="Codec of the linear weights.")]
Commit = Annotated[str | None, typer.Option(help="Of the code, where it is not a git checkout.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16, float16 or float32; a CPU computes in float32.")]
Policy = Annotated[str, typer.Option(help=f"Who makes room for a missing expert: {', '.join(POLICIES)}.")]
Pin = Annotated[str, typer.Option(help="Experts that never leave the device's memory, with commas.")]
Slots = Annotated[int | None, typer.Option(help="Experts on the GPU at once, instead of as many as fit.")]
KvTokens = Annotated[int | None, typer.Option(help="Room for keys and values: rows times context.")]
MaxRows = Annotated[int | None, typer.Option(help="Requests decoded together.")]
MaxContext = Annotated[int | None, typer.Option(help="Tokens of one request, prompt and answer.")]
HostBudget = Annotated[
    str | None,
    typer.Option(help="Pinned host memory, such as 96GiB. Random experts beyond it share their place in it."),
]
Threads = Annotated[int, typer.Option(help="Threads of torch in each engine.")]
