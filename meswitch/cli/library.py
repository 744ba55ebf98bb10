"""`meswitch list` and `meswitch remove`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from meswitch.library import LibraryEntry

__all__ = ["list_command", "remove"]


def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the experts of the library."""
    import json

    from rich.table import Table

    from meswitch.cli.console import format_bytes, stdout
    from meswitch.codecs import shown_spec
    from meswitch.home import experts_dir
    from meswitch.library import list_experts

    entries = list_experts()
    if as_json:
        typer.echo(json.dumps([_as_json(entry) for entry in entries], indent=2))
        return
    if not entries:
        typer.echo(f"no experts in {experts_dir()}; make one with: meswitch compress")
        return
    table = Table("name", "base", "codec", "linears", "whole", "made")
    table.columns[2].overflow = "fold"
    for entry in entries:
        if entry.delta is None:
            table.add_row(entry.name, "damaged: try meswitch verify", "", "", "", "")
            continue
        manifest = entry.delta.manifest
        codec = shown_spec(manifest.codecs["linear"].spec)
        sizes = (format_bytes(manifest.nbytes.linears), format_bytes(manifest.nbytes.whole))
        table.add_row(entry.name, manifest.base.name, codec, *sizes, manifest.created)
    stdout().print(table)


def remove(
    names: Annotated[list[str], typer.Argument(help="Experts of the library.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete experts from the library."""
    from meswitch.errors import UnknownExpertError
    from meswitch.library import list_experts, remove_expert

    known = {entry.name.lower() for entry in list_experts()}
    for name in names:
        # nothing is deleted if one of the names is a mistake
        if name.lower() not in known:
            raise UnknownExpertError(f"no expert of the library is called {name!r}; see: meswitch list")
    if not yes and not typer.confirm(f"Delete {', '.join(names)}?"):
        typer.echo("nothing was deleted")
        return
    for name in names:
        typer.echo(f"removed {remove_expert(name)}")


def _as_json(entry: "LibraryEntry") -> dict[str, object]:
    facts: dict[str, object] = {"name": entry.name, "path": str(entry.path), "problem": entry.problem}
    if entry.delta is not None:
        manifest = entry.delta.manifest
        facts["base"] = {"name": manifest.base.name, "identity": manifest.base.identity}
        facts["codecs"] = {group: record.spec for group, record in manifest.codecs.items()}
        facts["nbytes"] = manifest.nbytes.model_dump()
        facts["created"] = manifest.created
    return facts
