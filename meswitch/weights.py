"""The dense float32 parameters of one expert, whatever they are made from.

WholeModel   : a checkpoint as it is
DeltaWeights : base + D̂, formed when needed and kept in the dense cache if that has room
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from meswitch.architecture import Architecture, ParameterKind, read_config
from meswitch.checkpoint import Checkpoint
from meswitch.codecs import decompress
from meswitch.compatibility import check_compatible
from meswitch.delta import ExpertDelta
from meswitch.dense_cache import DenseCache
from meswitch.errors import CheckpointError, MissingShardError, ShapeMismatchError
from meswitch.tensor_file import read_header, read_tensor

__all__ = ["DeltaWeights", "ExpertWeights", "WholeModel", "dense_bytes", "read_whole_model", "whole_model_bytes"]

FLOAT32_BYTES = 4

TABLES = (ParameterKind.EMBEDDING, ParameterKind.HEAD)


class ExpertWeights(Protocol):
    """Parameters of one expert by the names that checkpoints use; a tied head answers with the embedding."""

    @property
    def vocabulary(self) -> int:
        """Rows of the expert's embedding."""

    def find(self, name: str) -> torch.Tensor | None:
        """The float32 parameter if it is in memory; `None` if it must be formed at each use."""

    def form(self, name: str) -> torch.Tensor:
        """The float32 parameter, computed now if need be. Never modified by the caller."""


class WholeModel:
    """All parameters of a checkpoint, as float32."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], architecture: Architecture) -> None:
        self._tensors = tensors
        self._architecture = architecture

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters."""
        return sum(t.numel() * t.element_size() for t in self._tensors.values())

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self._tensors[self._architecture.embedding].shape[0]

    def find(self, name: str) -> torch.Tensor:
        """The parameter; the embedding for a head that is tied to it."""
        if name == self._architecture.head and name not in self._tensors:
            name = self._architecture.embedding
        return self._tensors[name]

    form = find


class DeltaWeights:
    """One expert as the base's parameters plus its delta."""

    def __init__(
        self,
        expert: str,
        *,
        base: WholeModel,
        delta: ExpertDelta,
        cache: DenseCache,
        architecture: Architecture,
    ) -> None:
        # the name it is served under, which need not be the one it was compressed under
        self._expert = expert
        self._base = base
        self._delta = delta
        self._cache = cache
        self._architecture = architecture

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding, the added ones included."""
        added = self._delta.added_rows.get(self._architecture.embedding)
        return self._base.vocabulary + (0 if added is None else added.shape[0])

    def find(self, name: str) -> torch.Tensor | None:
        """The parameter, if it need not be formed from codes."""
        name = self._own_name(name)
        if name in self._delta.exact:
            return self._delta.exact[name].float()
        if name in self._delta.matrices or name in self._delta.added_rows:
            return self._cache.get(self._expert, name)
        return self._base.find(name)

    def form(self, name: str) -> torch.Tensor:
        """The parameter; kept in the dense cache if the expert has room there."""
        found = self.find(name)
        if found is not None:
            return found
        name = self._own_name(name)
        matrix = self._base.find(name)
        if name in self._delta.matrices:
            matrix = decompress(self._delta.matrices[name]).add_(matrix)
        if name in self._delta.added_rows:
            matrix = torch.cat((matrix, self._delta.added_rows[name].float()))
        self._cache.put(self._expert, name, matrix)
        return matrix

    def _own_name(self, name: str) -> str:
        head = self._architecture.head
        tied = name == head and not any(
            head in part for part in (self._delta.matrices, self._delta.exact, self._delta.added_rows)
        )
        return self._architecture.embedding if tied else name


def dense_bytes(delta: ExpertDelta) -> int:
    """Bytes that all formed matrices of `delta` take in the dense cache."""
    described = sum(m.shape[0] * m.shape[1] for m in delta.matrices.values())
    added = sum(rows.numel() for rows in delta.added_rows.values())
    return (described + added) * FLOAT32_BYTES


def whole_model_bytes(root: Path, architecture: Architecture) -> int:
    """Bytes that the checkpoint takes in memory as float32, from its headers alone.

    Raises:
        CheckpointError: it cannot be used as it is.
    """
    checkpoint = Checkpoint(root)
    names = _needed(read_config(root), architecture)
    return sum(checkpoint.spec(name).nbytes // checkpoint.spec(name).dtype.itemsize for name in names) * FLOAT32_BYTES


def read_whole_model(root: Path, *, architecture: Architecture, base_config: Any) -> WholeModel:
    """The checkpoint's parameters, read file by file from front to back.

    Raises:
        CheckpointError: it is missing, damaged, or cannot share a batch with `base_config`.
    """
    checkpoint, config = Checkpoint(root), read_config(root)
    check_compatible(base_config, config)
    needed = _needed(config, architecture)
    tensors: dict[str, torch.Tensor] = {}
    for path in checkpoint.files:
        for name, stored in read_header(path, error=CheckpointError).items():
            if name in needed:
                tensors[name] = read_tensor(stored, error=CheckpointError).float()
    if missing := sorted(needed - tensors.keys()):
        raise MissingShardError(f"{root}: tensor {missing[0]} is in none of the checkpoint's files")
    _check_shapes(root, tensors, architecture)
    return WholeModel(tensors, architecture)


def _needed(config: Any, architecture: Architecture) -> set[str]:
    names = {parameter.name for parameter in architecture.parameters}
    return names - {architecture.head} if config.tie_word_embeddings else names


def _check_shapes(root: Path, tensors: Mapping[str, torch.Tensor], architecture: Architecture) -> None:
    for parameter in architecture.parameters:
        if parameter.name not in tensors:
            continue
        shape = tuple(tensors[parameter.name].shape)
        # a vocabulary may have grown, so only the width of a table is fixed
        first = 1 if parameter.kind in TABLES else 0
        if len(shape) != len(parameter.shape) or shape[first:] != parameter.shape[first:]:
            raise ShapeMismatchError(f"{root}: {parameter.name} must have shape {parameter.shape}, got {shape}")
