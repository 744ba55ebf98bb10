"""What to compress, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from meswitch.errors import EngineError

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_CANDIDATES",
    "DEFAULT_EMBEDDING",
    "DEFAULT_HEAD",
    "DEFAULT_LINEAR",
    "CompressConfig",
    "torch_device",
]

DEFAULT_LINEAR = "salient:bits=2,channels=8,step=unbiased"
DEFAULT_EMBEDDING = "rtn:bits=8,step=mse"
DEFAULT_HEAD = "rtn:bits=8,step=mse"
DEFAULT_CANDIDATES = (
    "sparse-sign:group=8",
    "sparse-sign:group=4",
    "salient:bits=1,channels=8",
    "rtn:bits=2",
    "salient:bits=2,channels=8",
    "salient:bits=4,channels=8",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressConfig:
    """One expert's compression.

    Attributes:
        base: checkpoint directory of the base.
        expert: checkpoint directory of a full fine-tune, or a PEFT LoRA adapter directory.
        output: the delta directory to make.
        name: what the expert will be called.
        linear, embedding, head: codec specs, such as `rtn:bits=4`.
        calibration: texts that decide which channels are salient; `None` decides by weight error alone.
        allocate: a budget, such as `2.25bits` or `1.2GB`: each linear gets one of `candidates`, and `linear` counts for
            nothing.
        candidates: codec specs.
        measure: choose by KL, measured linear by linear on the calibration texts, instead of by errors.
        search: generations of a search by what an allocation does to the expert, on the calibration texts; one of its
            starts is what is measured.
        force: compress although the expert is too far from the base to descend from it.
        replace: put the new delta in the place of one that is there.
        device: `cpu` or `cuda`: where texts are read and deltas compressed.
    """

    base: Path
    expert: Path
    output: Path
    name: str
    linear: str = DEFAULT_LINEAR
    embedding: str = DEFAULT_EMBEDDING
    head: str = DEFAULT_HEAD
    calibration: Path | None = None
    allocate: str | None = None
    candidates: tuple[str, ...] = DEFAULT_CANDIDATES
    measure: bool = False
    search: int = 0
    force: bool = False
    replace: bool = False
    device: Literal["cpu", "cuda"] = "cpu"


def torch_device(name: str) -> "torch.device":
    """The device called `cpu` or `cuda`.

    Raises:
        EngineError: it is another word, or there is no such device.
    """
    import torch

    if name not in ("cpu", "cuda"):
        raise EngineError(f"device must be cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineError("device cuda needs an NVIDIA GPU that torch can see, and there is none; take cpu")
    return torch.device(name)
