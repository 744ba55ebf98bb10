"""Model families: a base, its experts and a router, by name or by directory."""

from pathlib import Path

from meswitch.errors import FamilyError
from meswitch.families.checkpoints import Checkpoints, materialise
from meswitch.families.family import FAMILY_FILE, ExpertInfo, Family, read_family
from meswitch.families.shape_family import ShapeFamily, list_shape_families, load_shape_family

__all__ = [
    "Checkpoints",
    "ExpertInfo",
    "Family",
    "ShapeFamily",
    "list_families",
    "list_shape_families",
    "load_family",
    "load_shape_family",
    "materialise",
]

BUNDLED = {"pocket": Path(__file__).parent / "pocket" / "weights"}
"""Families that ship with the package."""


def list_families() -> list[str]:
    """Names of the families that ship with the package and are complete enough to be read."""
    return [name for name, root in BUNDLED.items() if (root / FAMILY_FILE).is_file()]


def load_family(name_or_path: str | Path) -> Family:
    """The bundled family of that name, or the family in that directory.

    Raises:
        FamilyError: there is none, or it is incomplete or damaged.
    """
    if str(name_or_path) in BUNDLED:
        return read_family(BUNDLED[str(name_or_path)])
    path = Path(name_or_path)
    if not path.is_dir():
        known, shapes = ", ".join(sorted(BUNDLED)), ", ".join(list_shape_families())
        raise FamilyError(
            f"unknown family {str(name_or_path)!r}; give {known} or a directory with {FAMILY_FILE} "
            f"({shapes} are shapes only: random weights on a GPU, for memory and speed)"
        )
    return read_family(path)
