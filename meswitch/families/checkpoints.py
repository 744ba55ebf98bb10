"""A family's experts as plain Hugging Face checkpoints, made once and kept."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meswitch.errors import FamilyError, MeswitchError
from meswitch.families.family import FAMILY_FILE, Family

__all__ = ["Checkpoints", "family_hash", "materialise"]

IDENTITIES_FILE = "identities.json"
"""Beside the checkpoints: the identity that each had when it was made."""

LAYOUT = 2
"""Raised when what a directory of checkpoints holds changes: older ones are made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Checkpoint directories of a family: base, experts by name, router."""

    base: Path
    experts: Mapping[str, Path]
    router: Path


def materialise(family: Family, home: Path, *, progress: Callable[[str, int, int], None] | None = None) -> Checkpoints:
    """The family's checkpoints under `home/families/<name>-<hash>/`, merged now if they are not there yet.

    Of several processes that need them at once, one merges and the others wait.

    Args:
        family: whose deltas are merged with its base.
        home: where meswitch keeps its files.
        progress: called with a model's name, its number and their count, before each is merged.

    Raises:
        FamilyError: a part of the family is damaged, or a checkpoint that was made earlier.
        StorageError: the disk refuses; nothing half-made is left then.
    """
    root = home / "families" / f"{family.name}-{family_hash(family)[:12]}-{LAYOUT}"
    deltas = {**{name: expert.delta_dir for name, expert in family.experts.items()}, "router": family.router_dir}
    if "router" in family.experts:
        raise FamilyError("the name 'router' is taken by the router itself; rename that expert")
    if not root.is_dir():
        from meswitch.format.staging import exclusive

        with exclusive(root):
            # another process may have made them while this one waited
            if not root.is_dir():
                merge_all(family, deltas, root, progress)
    made = {name: root / name for name in deltas}
    check_identities(root, made)
    return Checkpoints(
        base=family.base_dir, experts={name: made[name] for name in family.experts}, router=made["router"]
    )


def merge_all(
    family: Family, deltas: Mapping[str, Path], root: Path, progress: Callable[[str, int, int], None] | None
) -> None:
    """Merge every delta with the base into `root`, which appears when all are done."""
    from meswitch.format.staging import staged
    from meswitch.identity import base_identity
    from meswitch.merge import merge

    with staged(root) as partial:
        for number, (name, delta) in enumerate(deltas.items()):
            if progress is not None:
                progress(name, number, len(deltas))
            merge_one(family, delta, partial / name, merge)
        identities = {name: base_identity(partial / name) for name in deltas}
        (partial / IDENTITIES_FILE).write_text(json.dumps(identities, indent=2) + "\n")


def check_identities(root: Path, made: Mapping[str, Path]) -> None:
    """Refuse checkpoints that are no longer what was merged: they would be measured as if they were the experts."""
    from meswitch.identity import base_identity

    try:
        noted = json.loads((root / IDENTITIES_FILE).read_bytes())
        changed = [name for name, directory in made.items() if base_identity(directory) != noted.get(name)]
    except (OSError, ValueError, AttributeError, MeswitchError) as cause:
        raise FamilyError(f"{root} is damaged ({cause}); delete it, and it is made again") from cause
    if changed:
        raise FamilyError(
            f"{root} is damaged: {', '.join(changed)} changed after it was made; "
            "delete the directory, and it is made again"
        )


def merge_one(family: Family, delta: Path, output: Path, merge: Callable[[Path, Path, Path], None]) -> None:
    """Merge one delta; its errors name the family."""
    from meswitch.errors import StorageError

    try:
        merge(family.base_dir, delta, output)
    except StorageError:
        raise
    except MeswitchError as cause:
        raise FamilyError(f"family {family.name}: {cause}") from cause


def family_hash(family: Family) -> str:
    """A hash over all that the family's weights depend on: its description and each part's own checksums."""
    from blake3 import blake3

    from meswitch.identity import base_identity

    digest = blake3((family.root / FAMILY_FILE).read_bytes())
    try:
        digest.update(base_identity(family.base_dir).encode())
        for directory in (*(expert.delta_dir for expert in family.experts.values()), family.router_dir):
            # a manifest holds the checksum of every file beside it
            digest.update((directory / "manifest.json").read_bytes())
    except OSError as cause:
        raise FamilyError(f"family {family.name} is incomplete: {cause.filename} cannot be read") from cause
    except MeswitchError as cause:
        raise FamilyError(f"family {family.name}: {cause}") from cause
    return str(digest.hexdigest())
