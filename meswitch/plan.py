"""What a delta will hold, decided from headers alone: every parameter, its codec, its tensors and their bytes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from meswitch.architecture import BUFFER_MARKS, Architecture, Parameter, ParameterKind
from meswitch.checkpoint import Checkpoint
from meswitch.codecs.base import Codec, TensorSpec
from meswitch.errors import ShapeMismatchError, UnsupportedModelError
from meswitch.expert_source import ExpertSource

__all__ = ["PlannedParameter", "check_checkpoint", "plan_expert", "tensor_name"]

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

EXACT_LOCAL = "exact"
ROWS_LOCAL = "rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedParameter:
    """One parameter of the delta.

    Attributes:
        spec: shape and dtype in the expert.
        codec: of the delta; `None` where the expert's own values are kept.
        base_name: the base's parameter that the delta is taken from; `None` without a codec.
        base_rows: rows of that parameter; the expert's rows beyond are kept as they are.
        tensors: what is stored, by its name in the file.
    """

    name: str
    kind: ParameterKind
    spec: TensorSpec
    codec: Codec | None
    base_name: str | None
    base_rows: int
    tensors: Mapping[str, TensorSpec]

    @property
    def added_rows(self) -> int:
        """Rows that the base does not have."""
        return self.spec.shape[0] - self.base_rows if self.codec is not None else 0

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(spec.nbytes for spec in self.tensors.values())


def tensor_name(parameter: str, local: str) -> str:
    """The name of a stored tensor in the delta's file."""
    return f"{parameter}::{local}"


def check_checkpoint(checkpoint: Checkpoint, architecture: Architecture, *, tied: bool) -> None:
    """Nothing, if the checkpoint holds the architecture's parameters in a floating-point dtype, and no others.

    Raises:
        MissingShardError: a parameter is in none of the files.
        UnsupportedModelError: a tensor is quantised, or is no parameter of the architecture.
    """
    expected = {p.name for p in architecture.parameters if not (tied and p.name == architecture.head)}
    for name in sorted(expected):
        dtype = checkpoint.spec(name).dtype
        if dtype not in FLOATS:
            raise UnsupportedModelError(
                f"{checkpoint.root}: {name} is {dtype}, already quantised; give the original weights"
            )
    for name in checkpoint.names:
        buffer = any(mark in name for mark in BUFFER_MARKS)
        if name not in expected and name != architecture.head and not buffer:
            raise UnsupportedModelError(f"{checkpoint.root}: tensor {name} is no parameter of this architecture")


def plan_expert(
    base: Checkpoint,
    source: ExpertSource,
    architecture: Architecture,
    *,
    base_tied: bool,
    codecs: Mapping[ParameterKind, Codec],
    linears: Mapping[str, Codec] | None = None,
) -> tuple[PlannedParameter, ...]:
    """The parameters of the delta in load order.

    Args:
        codecs: by kind.
        linears: by name, where they are not all of one codec.

    Raises:
        ShapeMismatchError: a parameter has another shape than the base's, added rows of the tables apart.
    """
    planned = []
    for parameter in architecture.parameters:
        is_head = parameter.kind is ParameterKind.HEAD
        if is_head and source.tied:
            continue
        origin = architecture.embedding if is_head and base_tied else parameter.name
        codec = (linears or {}).get(parameter.name, codecs.get(parameter.kind))
        planned.append(_plan_parameter(parameter, base.spec(origin), origin, source.spec(parameter.name), codec))
    _check_tables(planned)
    return tuple(planned)


def _plan_parameter(
    parameter: Parameter,
    base: TensorSpec,
    origin: str,
    expert: TensorSpec,
    codec: Codec | None,
) -> PlannedParameter:
    name, kind = parameter.name, parameter.kind
    if kind is ParameterKind.EXACT:
        # a bias of the head grows with the vocabulary; everything else keeps its shape
        if expert.shape != base.shape and not name.endswith("head.bias"):
            raise _mismatch(name, base, expert)
        tensors = {tensor_name(name, EXACT_LOCAL): expert}
        return PlannedParameter(
            name=name, kind=kind, spec=expert, codec=None, base_name=None, base_rows=0, tensors=tensors
        )
    rows, width = base.shape
    growable = kind is not ParameterKind.LINEAR and expert.shape[0] >= rows
    if expert.shape[1:] != (width,) or (expert.shape[0] != rows and not growable):
        raise _mismatch(name, base, expert)
    assert codec is not None
    tensors = {tensor_name(name, local): spec for local, spec in codec.layout(rows, width).items()}
    if expert.shape[0] > rows:
        tensors[tensor_name(name, ROWS_LOCAL)] = TensorSpec((expert.shape[0] - rows, width), expert.dtype)
    return PlannedParameter(
        name=name, kind=kind, spec=expert, codec=codec, base_name=origin, base_rows=rows, tensors=tensors
    )


def _mismatch(name: str, base: TensorSpec, expert: TensorSpec) -> ShapeMismatchError:
    return ShapeMismatchError(
        f"{name} must have the base's shape {list(base.shape)}, got {list(expert.shape)}; is this the right base?"
    )


def _check_tables(planned: list[PlannedParameter]) -> None:
    tables = [p for p in planned if p.kind in (ParameterKind.EMBEDDING, ParameterKind.HEAD)]
    if len({p.spec.shape[0] for p in tables}) > 1:
        sizes = ", ".join(f"{p.name} {p.spec.shape[0]}" for p in tables)
        raise ShapeMismatchError(f"embedding and head must have the same number of rows, got {sizes}")
