"""A Hugging Face checkpoint on the local disk, read one tensor at a time."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from meswitch.codecs.base import TensorSpec
from meswitch.errors import CheckpointError, MissingShardError
from meswitch.tensor_file import StoredTensor, read_header, read_tensor

__all__ = ["COMPANION_FILES", "CONFIG_FILE", "INDEX_FILE", "SINGLE_FILE", "Checkpoint", "companions_of", "read_json"]

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

COMPANION_FILES = (
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""What stands beside the weights and belongs to the expert: its config, tokenizer, template and generation config."""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise CheckpointError(f"{path} cannot be read: {cause.strerror or cause}") from cause
    except ValueError as cause:
        raise CheckpointError(f"{path} must be a JSON file: {cause}") from cause
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


class Checkpoint:
    """The tensors and the config of one directory. Holds headers only; `read` returns one tensor.

    Args:
        root: a directory with `config.json` and `model.safetensors`, or shards and their index.

    Raises:
        CheckpointError: the directory is missing, has no safetensors weights or a damaged file.
        MissingShardError: the index names a file or a tensor that is not there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise CheckpointError(f"a checkpoint must be a directory on this machine, got {root}")
        if not (root / CONFIG_FILE).is_file():
            raise CheckpointError(f"{root} holds no {CONFIG_FILE}: it is not a Hugging Face checkpoint")
        self._tensors = _find_tensors(root)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, sorted."""
        return tuple(sorted(self._tensors))

    @property
    def names_on_disk(self) -> tuple[str, ...]:
        """The tensors' names, file by file, in the order in which they lie there."""
        return tuple(sorted(self._tensors, key=lambda name: (self._tensors[name].path, self._tensors[name].start)))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(stored.spec.nbytes for stored in self._tensors.values())

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors, sorted."""
        return tuple(sorted({stored.path for stored in self._tensors.values()}))

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of a tensor.

        Raises:
            MissingShardError: no file holds it.
        """
        return self._find(name).spec

    def read(self, name: str) -> torch.Tensor:
        """The tensor, freshly read; the caller owns it.

        Raises:
            MissingShardError: no file holds it.
        """
        return read_tensor(self._find(name), error=CheckpointError)

    def companions(self) -> tuple[Path, ...]:
        """The files beside the weights that belong to the model."""
        return companions_of(self.root)

    def _find(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise MissingShardError(f"{self.root}: tensor {name} is in none of the checkpoint's files")
        return self._tensors[name]


def companions_of(root: Path) -> tuple[Path, ...]:
    """Those of `COMPANION_FILES` that a directory holds."""
    return tuple(root / name for name in COMPANION_FILES if (root / name).is_file())


def _find_tensors(root: Path) -> Mapping[str, StoredTensor]:
    index = root / INDEX_FILE
    if index.is_file():
        return _find_sharded(root, read_json(index))
    single = root / SINGLE_FILE
    if single.is_file():
        return read_header(single, error=CheckpointError)
    if any(root.glob("*.bin")) or any(root.glob("*.pth")):
        raise CheckpointError(
            f"{root} holds pickled weights only; load it with transformers and save it again as safetensors"
        )
    raise CheckpointError(f"{root} holds neither {SINGLE_FILE} nor {INDEX_FILE}")


def _find_sharded(root: Path, index: Mapping[str, Any]) -> Mapping[str, StoredTensor]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(x, str) for x in weight_map.values()):
        raise CheckpointError(f"{root / INDEX_FILE} must have a weight_map of tensor names to file names")
    shards: dict[str, dict[str, StoredTensor]] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{root / INDEX_FILE} must name files of its own directory, got {name!r}")
        if not (root / name).is_file():
            raise MissingShardError(f"{root}: the index names {name}, which is not there; download it again")
        shards[name] = read_header(root / name, error=CheckpointError)
    for tensor, shard in weight_map.items():
        if tensor not in shards[shard]:
            raise MissingShardError(f"{root / shard}: the index says it holds {tensor}, but it does not")
    return {tensor: shards[shard][tensor] for tensor, shard in weight_map.items()}
