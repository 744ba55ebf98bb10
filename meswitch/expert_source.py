"""Where an expert's weights come from: what compression asks of a full checkpoint and of an adapter alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from meswitch.architecture import Architecture, read_config
from meswitch.checkpoint import CONFIG_FILE, Checkpoint, read_json
from meswitch.codecs.base import TensorSpec
from meswitch.identity import checkpoint_identity

__all__ = ["CheckpointSource", "ExpertSource", "is_tied"]


class ExpertSource(Protocol):
    """One expert, read parameter by parameter. Nothing is held between calls."""

    @property
    def kind(self) -> Literal["checkpoint", "adapter"]:
        """What `root` holds."""

    @property
    def root(self) -> Path:
        """The directory that the user gave."""

    @property
    def config(self) -> Any:
        """The expert's config, as transformers resolves it."""

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding table."""

    def config_json(self) -> dict[str, Any]:
        """The content of the expert's own `config.json`."""

    @property
    def nbytes(self) -> int:
        """Bytes of the expert's own tensors."""

    def identity(self, *, progress: Callable[[int], None] | None = None) -> str:
        """`blake3:<hex>` of the expert's own tensors; `progress` hears of the bytes that were hashed."""

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of a parameter in the expert."""

    def values(self, name: str) -> torch.Tensor:
        """The expert's own values of a parameter."""

    def delta(self, name: str, base: torch.Tensor) -> torch.Tensor:
        """Expert minus `base` `[N, K]` over the base's N rows, float32, on the device of `base`."""

    def companions(self) -> tuple[Path, ...]:
        """Config, tokenizer, template and generation config."""


class CheckpointSource:
    """A full fine-tune: a Hugging Face checkpoint.

    Raises:
        CheckpointError: the directory cannot be read as one.
        UnsupportedModelError: its config is not one of a plain causal language model.
    """

    kind: Literal["checkpoint"] = "checkpoint"

    def __init__(self, root: Path, architecture: Architecture) -> None:
        self.root = root
        self.checkpoint = Checkpoint(root)
        self.config = read_config(root)
        self.tied = is_tied(self.checkpoint, self.config, architecture)

    def config_json(self) -> dict[str, Any]:
        """The content of the expert's own `config.json`, as written, but for a head that isn't tied after all."""
        content = read_json(self.root / CONFIG_FILE)
        if getattr(self.config, "tie_word_embeddings", False) != self.tied:
            content["tie_word_embeddings"] = self.tied
        return content

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.checkpoint.nbytes

    def identity(self, *, progress: Callable[[int], None] | None = None) -> str:
        """`blake3:<hex>` over all tensors."""
        return checkpoint_identity(self.checkpoint, progress=progress)

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of a parameter in the expert."""
        return self.checkpoint.spec(name)

    def values(self, name: str) -> torch.Tensor:
        """The expert's own values of a parameter."""
        return self.checkpoint.read(name)

    def delta(self, name: str, base: torch.Tensor) -> torch.Tensor:
        """Expert minus `base` `[N, K]` over the base's N rows, float32, on the device of `base`."""
        # in place, so that no second matrix of the size of the difference is held
        return self.checkpoint.read(name)[: base.shape[0]].to(base.device).float().sub_(base)

    def companions(self) -> tuple[Path, ...]:
        """Config, tokenizer, template and generation config."""
        return self.checkpoint.companions()


def is_tied(checkpoint: Checkpoint, config: Any, architecture: Architecture) -> bool:
    """Whether the head is the embedding table, in the checkpoint as transformers would load it.

    A config may say so although the file holds two different tables; then the tables count.
    """
    if not getattr(config, "tie_word_embeddings", False):
        return False
    if architecture.head not in checkpoint:
        return True
    if checkpoint.spec(architecture.head) != checkpoint.spec(architecture.embedding):
        return False
    return torch.equal(checkpoint.read(architecture.head), checkpoint.read(architecture.embedding))
