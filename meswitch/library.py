"""The experts of this machine, by name: one delta directory each under the home directory."""

import uuid
from dataclasses import dataclass
from pathlib import Path

from meswitch.errors import MeswitchError, StorageError, UnknownExpertError
from meswitch.format.reader import DeltaDirectory, open_delta
from meswitch.format.staging import recover, remove_directory, storage_errors
from meswitch.home import experts_dir
from meswitch.names import check_name

__all__ = ["LibraryEntry", "find_expert", "list_experts", "place_for", "remove_expert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryEntry:
    """One expert of the library.

    Attributes:
        name: the directory's name, by which it is asked for.
        path: the delta directory.
        delta: `None` if the directory is damaged.
        problem: what is wrong with it then.
    """

    name: str
    path: Path
    delta: DeltaDirectory | None
    problem: str | None


def list_experts(root: Path | None = None) -> tuple[LibraryEntry, ...]:
    """The experts in the library, sorted by name; damaged ones too. Checksums of large files are not computed."""
    return tuple(_read_entry(path) for path in _directories(root or experts_dir()))


def place_for(name: str, root: Path | None = None) -> Path:
    """The directory for an expert called `name`: the one it has, whatever its case, or a new one.

    Raises:
        ExpertNameError: the name is not allowed.
    """
    check_name(name)
    home = root or experts_dir()
    same = [path for path in _directories(home) if path.name.lower() == name.lower()]
    return same[0] if same else home / name


def find_expert(name_or_path: str, root: Path | None = None) -> Path:
    """The delta directory of a library's expert, or a path to one as it is.

    Raises:
        UnknownExpertError: there is neither such an expert nor such a directory.
    """
    home = root or experts_dir()
    directories = _directories(home)
    for path in directories:
        if path.name.lower() == name_or_path.lower():
            return path
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    known = ", ".join(path.name for path in directories) or "none"
    raise UnknownExpertError(f"no expert or delta directory is called {name_or_path!r}; experts in {home}: {known}")


def remove_expert(name: str, root: Path | None = None) -> Path:
    """The directory that was removed. It vanishes from the library at once; its files are deleted after that.

    Raises:
        UnknownExpertError: the library has no expert of that name.
        StorageError: the disk refuses.
    """
    home = root or experts_dir()
    for path in _directories(home):
        if path.name.lower() == name.lower():
            with storage_errors(path):
                doomed = path.rename(home / f".{path.name}.{uuid.uuid4().hex[:8]}.removed")
                remove_directory(doomed)
            return path
    known = ", ".join(path.name for path in _directories(home)) or "none"
    raise UnknownExpertError(f"no expert of the library is called {name!r}; experts in {home}: {known}")


def _directories(home: Path) -> list[Path]:
    if not home.is_dir():
        taken = next((place for place in (home, *home.parents) if place.exists()), home)
        if taken.is_file():
            raise StorageError(f"MESWITCH_HOME must be a directory, and {taken} is a file; move it or set another home")
        return []
    with storage_errors(home):
        for path in home.glob(".*.old"):
            recover(home / path.name.removeprefix(".").removesuffix(".old"))
    return sorted(
        (p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name.lower()
    )


def _read_entry(path: Path) -> LibraryEntry:
    try:
        return LibraryEntry(name=path.name, path=path, delta=open_delta(path, verify=False), problem=None)
    except MeswitchError as error:
        return LibraryEntry(name=path.name, path=path, delta=None, problem=str(error))
