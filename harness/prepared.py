"""A family that is ready to be served: where its files are, and what they take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meswitch.config import SyntheticConfig

__all__ = ["DeltaSize", "PrepareRequest", "Prepared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRequest:
    """What to make ready.

    Attributes:
        family: a family's name or path.
        codec: of the linear weights, as a spec.
        dtype: in which an engine holds whole models.
        home: MESWITCH_HOME.
        experts: names of the family's experts to serve; `None` for all.
    """

    family: str
    codec: str
    home: Path
    dtype: str = "float32"
    experts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaSize:
    """Bytes of one compressed expert, and of its own whole checkpoint."""

    whole: int
    linears: int
    full_model: int
    bits_per_weight: float
    bits_per_weight_whole: float
    dense: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A family on disk, and the bytes its parts take in memory.

    Attributes:
        checkpoints: plain Hugging Face checkpoint of each expert; deltas: its compressed delta.
        domains: each expert's domain in words; tasks: the name of its task.
        router: `None` where the family has none; its bytes are 0 then.
        model_bytes: one whole model as an engine holds it.
        sizes: of each delta; its `whole` bytes are also what it takes in memory.
        codec: of the linear weights, with all options.
        weights_hash: over base, experts and router.
        vocabulary: tokens of the base.
        has_text: whether answers mean anything: `False` for random weights, which are sent token ids and never judged.
        synthetic: random weights instead of those of the paths, of which only the base's config is there then.
    """

    family: str
    base: Path
    checkpoints: Mapping[str, Path]
    deltas: Mapping[str, Path]
    router: Path | None
    domains: Mapping[str, str]
    tasks: Mapping[str, str]
    model_bytes: int
    router_bytes: int
    sizes: Mapping[str, DeltaSize]
    codec: str
    codec_name: str
    codec_options: Mapping[str, str | int | float | bool]
    weights_hash: str
    vocabulary: int
    has_text: bool = True
    synthetic: SyntheticConfig | None = None
