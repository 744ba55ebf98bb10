"""`harness compression`: what compressing an expert takes, on synthetic experts of a published model's shape."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import engine_flags, shape_flags
from harness.results import check_file
from harness.telemetry import need_gpu
from meswitch.compress_config import DEFAULT_EMBEDDING, DEFAULT_HEAD, DEFAULT_LINEAR

__all__ = ["compression"]


def compression(
    family: shape_flags.Family,
    layers: Annotated[
        list[int], typer.Option(help="Layers of the expert; repeat: two depths project the model's own.")
    ],
    linear: engine_flags.Codec = DEFAULT_LINEAR,
    embedding: shape_flags.Embedding = DEFAULT_EMBEDDING,
    head: shape_flags.Head = DEFAULT_HEAD,
    device: engine_flags.Device = "cpu",
    threads: Annotated[int, typer.Option(help="That torch may use.")] = 2,
    texts: Annotated[int, typer.Option(help="Calibration texts; 0 compresses without.")] = 0,
    tokens: Annotated[int, typer.Option(help="Of each text.")] = 0,
    seed: Annotated[int, typer.Option(help="Of weights and texts; 0 is a seed.")] = 0,
    scratch: Annotated[Path | None, typer.Option(help="Where checkpoints are written and removed.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which a compression is killed; writing its models is apart.")
    ] = None,
    table: shape_flags.Table = None,
) -> None:
    """Compress synthetic experts: seconds, and the most anonymous memory, beside what is allowed."""
    if table is not None:
        check_file(table)
    need_gpu(device)
    # torch takes seconds to import: never for --help
    from harness.compression.measure import CompressionOptions, measure_compression

    options = CompressionOptions(
        family=family,
        layers=tuple(layers),
        linear=linear,
        embedding=embedding,
        head=head,
        device=device,
        threads=threads,
        texts=texts,
        tokens=tokens,
        seed=seed,
        scratch=scratch,
        time_limit_s=time_limit,
    )
    measure_compression(options, table, typer.echo)
