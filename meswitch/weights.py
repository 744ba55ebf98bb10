"""The dense float32 parameters of one expert, whatever they are made from.

WholeModel   : a checkpoint as it is
DeltaWeights : base + D̂, formed when needed and kept in the dense cache if that has room
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Protocol

import torch

from meswitch.architecture import Architecture, Parameter, ParameterKind
from meswitch.checkpoint import Checkpoint
from meswitch.codecs import decompress
from meswitch.codecs.base import CompressedDelta
from meswitch.delta import ExpertDelta
from meswitch.dense_cache import DenseCache
from meswitch.errors import ShapeMismatchError
from meswitch.operand import DenseOperand, Operand, has_levels, level_operand, level_operand_bytes
from meswitch.plan import check_checkpoint

__all__ = ["DeltaWeights", "ExpertWeights", "WholeModel", "formed_bytes", "read_whole_model", "whole_model_bytes"]

FLOAT32_BYTES = 4

TABLES = (ParameterKind.EMBEDDING, ParameterKind.HEAD)


class ExpertWeights(Protocol):
    """Parameters of one expert by the names that checkpoints use; a tied head answers with the embedding."""

    @property
    def vocabulary(self) -> int:
        """Rows of the expert's embedding."""

    def vector(self, name: str) -> torch.Tensor:
        """A norm's weight or a bias, float32. Never modified by the caller."""

    def find(self, name: str) -> Operand | None:
        """The matrix if it is in memory; `None` if it must be formed at each use."""

    def form(self, name: str) -> Operand:
        """The matrix, formed now if need be."""


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

    def vector(self, name: str) -> torch.Tensor:
        """The parameter; the embedding for a head that is tied to it."""
        if name == self._architecture.head and name not in self._tensors:
            name = self._architecture.embedding
        return self._tensors[name]

    def find(self, name: str) -> DenseOperand:
        """The parameter as a matrix."""
        return DenseOperand(self.vector(name))

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

    def vector(self, name: str) -> torch.Tensor:
        """The parameter, which no codec describes."""
        exact = self._delta.exact.get(name)
        return self._base.vector(name) if exact is None else exact.float()

    def find(self, name: str) -> Operand | None:
        """The matrix, if it need not be formed from codes."""
        name = self._own_name(name)
        if name in self._delta.matrices:
            return self._cache.get(self._expert, name)
        return DenseOperand(self.vector(name))

    def form(self, name: str) -> Operand:
        """The matrix; kept in the cache if the expert has room there."""
        found = self.find(name)
        if found is not None:
            return found
        name = self._own_name(name)
        described, added = self._delta.matrices[name], self._delta.added_rows.get(name)
        operand = _formed(described, self._base.vector(name), added)
        self._cache.put(self._expert, name, operand)
        return operand

    def _own_name(self, name: str) -> str:
        head = self._architecture.head
        tied = name == head and head not in self._delta.matrices and head not in self._delta.exact
        return self._architecture.embedding if tied else name


def formed_bytes(delta: ExpertDelta) -> int:
    """Bytes that all formed matrices of `delta` take in the cache."""
    total = 0
    for name, described in delta.matrices.items():
        added = delta.added_rows.get(name)
        if has_levels(described):
            total += level_operand_bytes(described, added)
        else:
            total += (prod(described.shape) + (0 if added is None else added.numel())) * FLOAT32_BYTES
    return total


def _formed(described: CompressedDelta, base: torch.Tensor, added: torch.Tensor | None) -> Operand:
    if has_levels(described):
        return level_operand(described, base=base, added=added)
    matrix = decompress(described).add_(base)
    return DenseOperand(matrix if added is None else torch.cat((matrix, added.float())))


def whole_model_bytes(root: Path, *, architecture: Architecture, tied: bool) -> int:
    """Bytes that the checkpoint takes in memory as float32, from its headers alone.

    Raises:
        CheckpointError: it cannot be used as it is.
    """
    checkpoint = _open(root, architecture, tied=tied)
    return sum(prod(checkpoint.spec(name).shape) for name in _needed(architecture, tied=tied)) * FLOAT32_BYTES


def read_whole_model(root: Path, *, architecture: Architecture, tied: bool) -> WholeModel:
    """The checkpoint's parameters, read file by file from front to back.

    Args:
        root: a directory whose config can share a batch with the base's.
        architecture: of the base.
        tied: whether the checkpoint's head is its embedding.

    Raises:
        CheckpointError: it is missing or damaged, or its tensors are not those of the architecture.
    """
    checkpoint, needed = _open(root, architecture, tied=tied), _needed(architecture, tied=tied)
    tensors = {name: checkpoint.read(name).float() for name in checkpoint.names_on_disk if name in needed}
    return WholeModel(tensors, architecture)


def _needed(architecture: Architecture, *, tied: bool) -> set[str]:
    names = {parameter.name for parameter in architecture.parameters}
    return names - {architecture.head} if tied else names


def _open(root: Path, architecture: Architecture, *, tied: bool) -> Checkpoint:
    checkpoint = Checkpoint(root)
    check_checkpoint(checkpoint, architecture, tied=tied)
    needed = _needed(architecture, tied=tied)
    for parameter in architecture.parameters:
        if parameter.name in needed:
            _check_shape(root, parameter, checkpoint.spec(parameter.name).shape)
    rows = {
        name: checkpoint.spec(name).shape[0] for name in (architecture.embedding, architecture.head) if name in needed
    }
    if len(set(rows.values())) > 1:
        sizes = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise ShapeMismatchError(f"{root}: embedding and head must have the same number of rows, got {sizes}")
    return checkpoint


def _check_shape(root: Path, parameter: Parameter, shape: tuple[int, ...]) -> None:
    # a vocabulary may have grown, so only the width of a table is fixed
    first = 1 if parameter.kind in TABLES else 0
    if len(shape) != len(parameter.shape) or shape[first:] != parameter.shape[first:]:
        raise ShapeMismatchError(f"{root}: {parameter.name} must have shape {parameter.shape}, got {shape}")
