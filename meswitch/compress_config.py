"""What to compress, and how."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT_EMBEDDING", "DEFAULT_HEAD", "DEFAULT_LINEAR", "CompressConfig"]

DEFAULT_LINEAR = "salient:bits=2,channels=8,step=unbiased"
DEFAULT_EMBEDDING = "rtn:bits=8,step=mse"
DEFAULT_HEAD = "rtn:bits=8,step=mse"


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
        force: compress although the expert is too far from the base to descend from it.
        replace: put the new delta in the place of one that is there.
    """

    base: Path
    expert: Path
    output: Path
    name: str
    linear: str = DEFAULT_LINEAR
    embedding: str = DEFAULT_EMBEDDING
    head: str = DEFAULT_HEAD
    calibration: Path | None = None
    force: bool = False
    replace: bool = False
