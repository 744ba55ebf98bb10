"""Options of the commands that measure a shape with random weights, shared by them."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Dtype", "Embedding", "Family", "Gpu", "Head", "Repeats", "Seed", "Table"]

Family = Annotated[str, typer.Option(help="A shape, or a Hugging Face config: random weights are made of it.")]
Embedding = Annotated[str, typer.Option(help="Codec of the embedding.")]
Head = Annotated[str, typer.Option(help="Codec of the head.")]
Dtype = Annotated[str, typer.Option(help="bfloat16 or float16.")]
Repeats = Annotated[int, typer.Option(help="Times that each case is measured, interleaved.")]
Seed = Annotated[int, typer.Option(help="Of all random weights; 0 is a seed.")]
Gpu = Annotated[int, typer.Option(help="Index of the GPU.")]
Table = Annotated[
    Path | None, typer.Option("--table", help="Keep rows there; what it already has is not measured again.")
]
