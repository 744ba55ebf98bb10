"""`meswitch compress`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meswitch.compress_config import (
    DEFAULT_CANDIDATES,
    DEFAULT_EMBEDDING,
    DEFAULT_HEAD,
    DEFAULT_LINEAR,
    CompressConfig,
)

if TYPE_CHECKING:
    from meswitch.format.manifest import Manifest

__all__ = ["compress"]


def compress(
    base: Annotated[Path, typer.Option(help="Checkpoint directory of the base.")],
    expert: Annotated[Path, typer.Option(help="Checkpoint directory of a fine-tune, or a LoRA adapter directory.")],
    name: Annotated[str | None, typer.Option(help="The expert's name; by default its directory's.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Delta directory to make; by default one in the library.", show_default=False)
    ] = None,
    linear: Annotated[str, typer.Option(help="Codec of the linear weights.")] = DEFAULT_LINEAR,
    embedding: Annotated[str, typer.Option(help="Codec of the embedding.")] = DEFAULT_EMBEDDING,
    head: Annotated[str, typer.Option(help="Codec of a head that is not tied.")] = DEFAULT_HEAD,
    allocate: Annotated[
        str | None,
        typer.Option(help="A codec for each linear, within a budget: 2.25bits of their weights, or 1.2GB in all."),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(help=f"With --allocate: repeat; if absent: {', '.join(DEFAULT_CANDIDATES)}.", show_default=False),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="With --allocate and --calibration: by KL measured linear by linear; holds the whole model.",
        ),
    ] = False,
    search: Annotated[
        int,
        typer.Option(help="With --allocate and --calibration: generations of a search by KL; holds the whole model."),
    ] = 0,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Texts that choose the salient channels: one a line, or .jsonl with text or prompt, answer."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda: where texts are read and deltas compressed.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Even if the expert looks unrelated to the base.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an expert of the same name.")] = False,
    times: Annotated[Path | None, typer.Option(help="File to make: the seconds of each phase, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest without its parameters.")] = False,
) -> None:
    """Compress a fine-tune of a base into a delta directory. Run it again to go on after an interruption."""
    from meswitch.cli.console import progress_bar
    from meswitch.compress import compress_expert
    from meswitch.library import place_for
    from meswitch.phases import Phases

    if times is not None and not times.resolve().parent.is_dir():
        raise typer.BadParameter(f"--times must name a file in a directory that exists, got {times}")
    called = name or expert.resolve().name
    config = CompressConfig(
        base=base,
        expert=expert,
        output=output or place_for(called),
        name=called,
        linear=linear,
        embedding=embedding,
        head=head,
        calibration=calibration,
        allocate=allocate,
        candidates=tuple(candidate) if candidate else DEFAULT_CANDIDATES,
        measure=measure,
        search=search,
        device=device,  # type: ignore[arg-type]
        force=force,
        replace=replace,
    )
    phases = Phases()
    with progress_bar(f"compressing {called}") as move, phases.of("total"):
        manifest = compress_expert(config, progress=lambda p: move(p.stage, p.done, p.total), phases=phases)
    if times is not None:
        times.write_text(json.dumps({name: round(seconds, 3) for name, seconds in phases.seconds.items()}) + "\n")
    _print_result(manifest, config.output, as_json=as_json)


def _print_result(manifest: "Manifest", output: Path, *, as_json: bool) -> None:
    from meswitch.cli.console import format_bytes, stdout

    if as_json:
        typer.echo(manifest.model_dump_json(exclude={"parameters"}, indent=2))
        return
    counts, bits = manifest.nbytes, manifest.bits_per_weight
    share = counts.full_model / counts.whole
    stdout().print(
        f"{manifest.name}: {format_bytes(counts.linears)} linears ({bits['linears']:.2f} bits per weight), "
        f"{format_bytes(counts.whole)} whole expert, {share:.1f} times smaller than its checkpoint\n{output}",
        soft_wrap=True,
        markup=False,
    )
