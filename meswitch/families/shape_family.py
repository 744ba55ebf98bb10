"""Families of shapes alone: a config and nothing else. Weights are random: for memory and speed, never for quality.

The configs beside this file are facts about published models, written down by us; no weights of theirs are used.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meswitch.errors import FamilyError

if TYPE_CHECKING:
    from meswitch.cuda.decoder_shape import DecoderShape

__all__ = ["ShapeFamily", "list_shape_families", "load_shape_family"]

SHAPES = Path(__file__).parent / "shapes"

CONFIG_FILE = "config.json"


@dataclass(frozen=True, kw_only=True)
class ShapeFamily:
    """A model's shape, and as many experts as are asked for.

    Attributes:
        name: of the family.
        config_dir: a directory with the model's Hugging Face `config.json`.
    """

    name: str
    config_dir: Path

    @cached_property
    def config(self) -> Any:
        """The config as transformers resolves it.

        Raises:
            UnsupportedModelError: transformers does not know such a config.
        """
        from meswitch.architecture import read_config

        return read_config(self.config_dir)

    @cached_property
    def shape(self) -> "DecoderShape":
        """The shape of the decoder.

        Raises:
            UnsupportedModelError: the CUDA path does not compute such a model.
        """
        from meswitch.cuda.decoder_shape import decoder_shape

        return decoder_shape(self.config, tied=bool(self.config.tie_word_embeddings))

    def experts(self, count: int) -> tuple[str, ...]:
        """Names of `count` experts: `expert-000`, `expert-001`, …"""
        if count < 0:
            raise ValueError(f"count must be at least 0, got {count}")
        return tuple(f"expert-{number:03d}" for number in range(count))


def list_shape_families() -> list[str]:
    """Names of the shapes that ship with the package, sorted."""
    return sorted(path.parent.name for path in SHAPES.glob(f"*/{CONFIG_FILE}"))


def load_shape_family(name_or_path: str | Path) -> ShapeFamily:
    """The shape of that name, or of any Hugging Face config: its `config.json`, or the directory that holds it.

    Raises:
        FamilyError: there is none.
        UnsupportedModelError: the CUDA path does not compute such a model.
    """
    name = str(name_or_path)
    if name in list_shape_families():
        family = ShapeFamily(name=name, config_dir=SHAPES / name)
    else:
        family = _from_path(Path(name_or_path))
    # read now, so that what it is refused for is said before any work
    _ = family.shape
    return family


def _from_path(path: Path) -> ShapeFamily:
    root = path.parent if path.name == CONFIG_FILE else path
    if not (root / CONFIG_FILE).is_file():
        raise FamilyError(
            f"unknown shape {str(path)!r}; give {', '.join(list_shape_families())}, a {CONFIG_FILE} or its directory"
        )
    return ShapeFamily(name=root.resolve().name, config_dir=root)
