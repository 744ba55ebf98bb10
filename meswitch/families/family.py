"""A model family: one base, its experts as deltas, and a router, in one directory described by `family.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, ValidationError

from meswitch.errors import ExpertNameError, FamilyError
from meswitch.names import check_name

__all__ = [
    "FAMILY_FILE",
    "SCHEMA",
    "ExpertInfo",
    "ExpertRecord",
    "Family",
    "FamilyRecord",
    "read_family",
    "write_family",
]

FAMILY_FILE = "family.json"

SCHEMA = "meswitch-family/1"


class ExpertRecord(BaseModel):
    """One expert as `family.json` lists it. `delta` is relative to the family's directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    task: str
    description: str
    delta: str
    known_to_router: bool


class FamilyRecord(BaseModel):
    """The content of `family.json`. Paths are relative to its directory."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: str
    name: str
    description: str
    base: str
    router: str
    experts: tuple[ExpertRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertInfo:
    """One expert of a family.

    Attributes:
        name: how requests address it.
        task: the name of its task in `workloads.tasks`.
        description: its domain, as the router reads it.
        delta_dir: its delta directory.
        known_to_router: whether the router was trained on its domain; if not, it stands for an expert added later.
    """

    name: str
    task: str
    description: str
    delta_dir: Path
    known_to_router: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family on the disk.

    Attributes:
        name: of the family.
        description: one line.
        root: its directory.
        base_dir: the base, a Hugging Face checkpoint.
        experts: by name.
        router_dir: the router, a delta directory of the same base.
    """

    name: str
    description: str
    root: Path
    base_dir: Path
    experts: Mapping[str, ExpertInfo]
    router_dir: Path

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


def read_family(root: Path) -> Family:
    """The family in directory `root`.

    Raises:
        FamilyError: `family.json` is missing or damaged, or a directory that it names is not there.
    """
    path = root / FAMILY_FILE
    try:
        record = FamilyRecord.model_validate_json(path.read_bytes())
    except OSError as cause:
        raise FamilyError(
            f"{root} is no model family: it has no readable {FAMILY_FILE} (docs/own-models.md shows one)"
        ) from cause
    except ValidationError as cause:
        first = cause.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise FamilyError(f"{path}, {where}: {first['msg']}; the file is damaged or of another version") from cause
    if record.schema_version != SCHEMA:
        raise FamilyError(f"{path} must be of schema {SCHEMA}, got {record.schema_version}")
    for name in (record.name, *(expert.name for expert in record.experts)):
        _check_name(path, name)
    experts = {
        expert.name: ExpertInfo(
            name=expert.name,
            task=expert.task,
            description=expert.description,
            delta_dir=part_of(root, expert.delta),
            known_to_router=expert.known_to_router,
        )
        for expert in record.experts
    }
    if len(experts) != len(record.experts) or not experts:
        raise FamilyError(f"{path} must list at least one expert and none twice, got {len(record.experts)} entries")
    return Family(
        name=record.name,
        description=record.description,
        root=root,
        base_dir=part_of(root, record.base),
        experts=MappingProxyType(experts),
        router_dir=part_of(root, record.router),
    )


def _check_name(path: Path, name: str) -> None:
    # names become directories of the materialised family, which must not lead out of its home
    try:
        check_name(name)
    except ExpertNameError as cause:
        raise FamilyError(f"{path} may only use names that an expert may have: {cause}") from cause


def part_of(root: Path, relative: str) -> Path:
    """The directory `relative` inside `root`."""
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise FamilyError(f"{root / FAMILY_FILE} may only name its own directories, got {relative!r}")
    if not path.is_dir():
        raise FamilyError(f"the family in {root} is incomplete: {relative} is missing; install or export it again")
    return path


def write_family(root: Path, record: FamilyRecord) -> None:
    """Write `family.json` into `root`."""
    (root / FAMILY_FILE).write_text(json.dumps(record.model_dump(), indent=2) + "\n")
