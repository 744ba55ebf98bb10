"""What an expert of a model's shape takes, and how much smaller several models become: by arithmetic, without weights.

Ratios are full models ÷ (base + experts), all full models and the base in 16 bits, as ME-Switch (arXiv 2406.09041)
counts them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from meswitch.architecture import Architecture

__all__ = ["ExpertSize", "ModelShape", "model_shape", "paper_size", "size_by_layouts"]

SIXTEEN_BITS = 2
NOMINAL_BITS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Matrices `(N, K)` of a model by what they are; `others` counts the numbers in no matrix.

    Attributes:
        tables: the embedding, and the head where it is one of its own.
    """

    linears: tuple[tuple[int, int], ...]
    tables: tuple[tuple[int, int], ...]
    others: int

    @property
    def linear_weights(self) -> int:
        """Numbers in all linears."""
        return sum(N * K for N, K in self.linears)

    @property
    def full_bytes(self) -> int:
        """The whole model in 16 bits."""
        return SIXTEEN_BITS * (self.linear_weights + sum(N * K for N, K in self.tables) + self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSize:
    """One way to keep an expert.

    Attributes:
        linear, tables: specs of codecs; `None` of what the paper counts, which is no codec of ours.
        bits_per_weight: of the linears, everything that is stored for them included.
        expert_bytes: of the whole expert.
        ratios: by the number of models, base not counted among them.
    """

    linear: str | None
    tables: str | None
    bits_per_weight: float
    expert_bytes: int
    ratios: Mapping[int, float]


def model_shape(architecture: "Architecture", *, tied: bool) -> ModelShape:
    """The matrices of an architecture."""
    from meswitch.architecture import ParameterKind

    def of(*kinds: ParameterKind) -> tuple[tuple[int, int], ...]:
        return tuple((p.shape[0], p.shape[1]) for kind in kinds for p in architecture.of_kind(kind))

    others = sum(prod(parameter.shape) for parameter in architecture.of_kind(ParameterKind.EXACT))
    kinds = (ParameterKind.EMBEDDING,) if tied else (ParameterKind.EMBEDDING, ParameterKind.HEAD)
    return ModelShape(linears=of(ParameterKind.LINEAR), tables=of(*kinds), others=others)


def paper_size(shape: ModelShape, models: Sequence[int], *, router_bytes: int = 0) -> ExpertSize:
    """By the paper's accounting: 2 bits of each linear weight, one scale in 16 bits for each output channel, the rest
    in 16 bits. Salient channels and packing are not counted."""
    scales = SIXTEEN_BITS * sum(N for N, _ in shape.linears)
    linears = NOMINAL_BITS * shape.linear_weights // 8 + scales
    rest = shape.full_bytes - SIXTEEN_BITS * shape.linear_weights
    return _size(shape, None, None, linears, linears + rest, models, router_bytes)


def size_by_layouts(
    shape: ModelShape, linear: str, tables: str, models: Sequence[int], *, router_bytes: int = 0
) -> ExpertSize:
    """By what codecs store: codes, padding, steps, indices, values; norms and biases in 16 bits.

    Raises:
        UnknownCodecError, CodecOptionError: there is no such codec, or it cannot describe such matrices.
    """
    from meswitch.codecs import parse_codec

    codecs = [parse_codec(spec) for spec in (linear, tables)]
    stored = [
        sum(spec.nbytes for N, K in matrices for spec in codec.layout(N, K).values())
        for codec, matrices in zip(codecs, (shape.linears, shape.tables), strict=True)
    ]
    whole = sum(stored) + SIXTEEN_BITS * shape.others
    return _size(shape, linear, tables, stored[0], whole, models, router_bytes)


def _size(
    shape: ModelShape,
    linear: str | None,
    tables: str | None,
    linear_bytes: int,
    whole: int,
    models: Sequence[int],
    router_bytes: int,
) -> ExpertSize:
    if not models or min(models) < 1:
        raise UsageError(f"--models must be at least 1, got {list(models)}")
    full = shape.full_bytes
    return ExpertSize(
        linear=linear,
        tables=tables,
        bits_per_weight=8 * linear_bytes / shape.linear_weights,
        expert_bytes=whole,
        ratios={count: count * full / (full + count * whole + router_bytes) for count in models},
    )
