"""`meswitch inspect` and `meswitch verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from meswitch.format.manifest import Manifest

__all__ = ["inspect", "verify"]

Expert = Annotated[str, typer.Argument(help="An expert of the library, or a delta directory.")]


def inspect(
    expert: Expert,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest.")] = False,
) -> None:
    """Show what a delta holds: bytes by group, bits per weight, codecs and base."""
    from meswitch.cli.console import stdout
    from meswitch.format import open_delta
    from meswitch.library import find_expert

    delta = open_delta(find_expert(expert), verify=False)
    if as_json:
        typer.echo(delta.manifest.model_dump_json(indent=2))
        return
    console = stdout()
    for label, text in _facts(delta.manifest):
        console.print(f"{label:<12} {text}", soft_wrap=True, markup=False)
    console.print(_byte_table(delta.manifest))


def verify(
    expert: Expert,
    base: Annotated[Path | None, typer.Option(help="Check that the delta was made from this base.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check every checksum of a delta, its codecs and, if given, its base."""
    import json

    from meswitch.cli.console import format_bytes
    from meswitch.format import load_expert, open_delta
    from meswitch.identity import base_identity
    from meswitch.library import find_expert

    path = find_expert(expert)
    delta = open_delta(path)
    # reading it as an engine does proves that every tensor is there and every codec installed
    load_expert(path, base_identity=None if base is None else base_identity(base), verify=False)
    total = sum(record.nbytes for record in delta.manifest.files.values())
    if as_json:
        facts = {"name": delta.manifest.name, "path": str(path), "valid": True, "bytes": total}
        typer.echo(json.dumps({**facts, "base_checked": base is not None}))
        return
    against = "" if base is None else f", made from {base}"
    typer.echo(f"{delta.manifest.name}: {len(delta.manifest.files)} files, {format_bytes(total)}, intact{against}")


def _facts(manifest: "Manifest") -> list[tuple[str, str]]:
    base, expert = manifest.base, manifest.expert
    calibration = manifest.calibration
    return [
        ("expert", f"{manifest.name} ({expert.kind} {expert.name}, licence {expert.licence.name or 'not stated'})"),
        ("base", f"{base.name} ({base.model_type}, licence {base.licence.name or 'not stated'})"),
        ("identity", base.identity),
        ("made", f"{manifest.created} by meswitch {manifest.meswitch_version}, layout {manifest.layout}"),
        ("selection", manifest.selection),
        ("calibration", "none" if calibration is None else f"{calibration.file}, {calibration.texts} texts"),
        ("head", "tied to the embedding" if expert.tied_head else "its own"),
    ]


def _byte_table(manifest: "Manifest") -> "Table":
    from rich.table import Table

    from meswitch.cli.console import format_bytes
    from meswitch.codecs import shown_spec

    counts = manifest.nbytes
    table = Table("group", "codec", "bytes", "bits per weight", "delta / base")
    # a spec is to be read and copied whole, which its short form parses to as well
    table.columns[1].overflow = "fold"
    for column in table.columns[2:]:
        column.justify = "right"
    groups = {"linear": counts.linears, "embedding": counts.embedding, "head": counts.head}
    for group, nbytes in groups.items():
        if group not in manifest.codecs:
            continue
        bits = f"{manifest.bits_per_weight['linears']:.3f}" if group == "linear" else ""
        norm = manifest.relative_delta_norm.get(group)
        shown = "" if norm is None else f"{norm:.4f}"
        table.add_row(group, shown_spec(manifest.codecs[group].spec), format_bytes(nbytes), bits, shown)
    table.add_row("norms, biases", "exact", format_bytes(counts.exact))
    if counts.added_rows:
        table.add_row("added rows", "exact", format_bytes(counts.added_rows))
    table.add_section()
    whole = f"{manifest.bits_per_weight['whole']:.3f}"
    table.add_row("whole expert", "", format_bytes(counts.whole), whole)
    table.add_row("its checkpoint", "", format_bytes(counts.full_model))
    return table
