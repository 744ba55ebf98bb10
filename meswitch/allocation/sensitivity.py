"""What each candidate codec leaves of each linear's delta, weighed by its inputs, and the choice that follows.

N is the output dimension, K the input dimension. The error of a linear is the sum of `E_k` over its input channels
(ME-Switch, arXiv 2406.09041): `Σ_k Σ x_k² · ‖D_k − D̂_k‖²`, what quantising costs in its output. Without calibration
every `Σ x_k²` is 1.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import fsum, prod

import torch

from meswitch.ahead import torch_threads, work_ahead
from meswitch.allocation.knapsack import allocate, least_error
from meswitch.architecture import ParameterKind
from meswitch.calibration_stream import CalibrationStream, InputStatistics, compress_delta
from meswitch.codecs import Codec, CompressedDelta, decompress, format_spec
from meswitch.codecs.quantise import row_chunks
from meswitch.pair import Pair
from meswitch.parentage import delta_and_norms
from meswitch.plan import PlannedParameter

__all__ = [
    "Allocation",
    "Choice",
    "allocate_linears",
    "allocation_of",
    "assign_linears",
    "choices_of",
    "codec_bytes",
    "costs_of",
    "errors_of",
    "weighted_error",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One codec for one linear, the bytes that it takes and the error that it leaves.

    Attributes:
        plain_error: with all inputs weighed alike.
        compressed: what it makes of the delta, on the CPU, where it was to be kept.
    """

    codec: Codec
    nbytes: int
    error: float
    plain_error: float = 0.0
    compressed: CompressedDelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The chosen codecs.

    Attributes:
        codecs: by parameter.
        nbytes: of all linears together; budget_bytes: what they were allowed.
        error: summed over the linears; least_error: what no choice among the candidates can go below.
    """

    codecs: Mapping[str, Codec]
    nbytes: int
    budget_bytes: int
    error: float
    least_error: float

    @property
    def counts(self) -> Mapping[str, int]:
        """How many linears have each codec, by its spec, the most frequent first."""
        return dict(Counter(format_spec(codec.name, codec.options) for codec in self.codecs.values()).most_common())


def allocate_linears(choices: Mapping[str, Sequence[Choice]], budget: int) -> Allocation:
    """The choice for each linear with which the summed error is least and the bytes are at most `budget`.

    Raises:
        CapacityError: not even the smallest choices fit.
    """
    return allocation_of(choices, assign_linears(choices, budget), budget)


def assign_linears(choices: Mapping[str, Sequence[Choice]], budget: int, *, weighted: bool = True) -> tuple[int, ...]:
    """The number of the choice for each linear with which the summed error is least within `budget`.

    Args:
        weighted: whether inputs weigh the errors, or all count alike.

    Raises:
        CapacityError: not even the smallest choices fit.
    """
    return allocate(costs_of(choices), errors_of(choices, weighted=weighted), budget)


def costs_of(choices: Mapping[str, Sequence[Choice]]) -> list[list[int]]:
    """Bytes of every choice of every linear."""
    return [[choice.nbytes for choice in row] for row in choices.values()]


def errors_of(choices: Mapping[str, Sequence[Choice]], *, weighted: bool) -> list[list[float]]:
    """Errors of every choice of every linear, which inputs weigh or not."""
    return [[choice.error if weighted else choice.plain_error for choice in row] for row in choices.values()]


def alike_within(choices: Mapping[str, Sequence[Choice]], budget: int) -> list[tuple[int, ...]]:
    """Every candidate for all linears, where that costs at most `budget`; all have the same candidates."""
    rows = list(choices.values())
    found = []
    for number in range(min(map(len, rows), default=0)):
        if sum(row[number].nbytes for row in rows) <= budget:
            found.append((number,) * len(rows))
    return found


def allocation_of(choices: Mapping[str, Sequence[Choice]], numbers: Sequence[int], budget: int) -> Allocation:
    """The allocation that gives each linear the choice of its number."""
    chosen = {name: row[number] for (name, row), number in zip(choices.items(), numbers, strict=True)}
    return Allocation(
        codecs={name: choice.codec for name, choice in chosen.items()},
        nbytes=sum(choice.nbytes for choice in chosen.values()),
        budget_bytes=budget,
        error=fsum(choice.error for choice in chosen.values()),
        least_error=least_error(costs_of(choices), errors_of(choices, weighted=True), budget),
    )


def choices_of(
    pair: Pair,
    plan: Sequence[PlannedParameter],
    candidates: Sequence[Codec],
    *,
    calibration: CalibrationStream | None = None,
    device: torch.device | None = None,
    keep: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, tuple[Choice, ...]]:
    """Of every linear of `plan`, what each candidate takes and leaves; reads the linears one after the other.

    Args:
        pair: base and expert.
        candidates: the codecs to choose from.
        calibration: which weighs input channels; `None` weighs all alike.
        device: where deltas are compressed; the CPU if absent.
        keep: what every candidate makes of every linear, in memory.
        progress: called with a linear's name, its number and how many there are.

    Raises:
        CodecOptionError: a candidate cannot describe one of the linears.
        CheckpointError: base or expert cannot be read.
    """
    linears = [p for p in plan if p.kind is ParameterKind.LINEAR]
    where = device or torch.device("cpu")
    # a candidate that cannot describe a linear is told before any is read
    for p in linears:
        for codec in candidates:
            codec_bytes(codec, p.spec.shape)
    found: dict[str, tuple[Choice, ...]] = {}
    with torch_threads(1) as threads:

        def known() -> Iterator[tuple[tuple[PlannedParameter, InputStatistics | None], int]]:
            for parameter in linears:
                with torch_threads(threads):
                    statistics = None if calibration is None else calibration.of(parameter.name)
                yield (parameter, statistics), prod(parameter.spec.shape)

        limit = max((prod(p.spec.shape) for p in linears), default=0)
        work = partial(_weighed, pair, where, candidates, keep)
        ahead = work_ahead(known(), work, limit=limit, workers=threads if where.type == "cpu" else 2)
        for number, ((parameter, _), choices) in enumerate(ahead):
            if progress is not None:
                progress(parameter.name, number, len(linears))
            found[parameter.name] = choices
    return found


def codec_bytes(codec: Codec, shape: Sequence[int]) -> int:
    """What `codec` stores for a matrix of this shape."""
    N, K = shape
    return sum(spec.nbytes for spec in codec.layout(N, K).values())


def weighted_error(delta: torch.Tensor, described: torch.Tensor, input_square_sum: torch.Tensor | None) -> float:
    """`Σ_k w_k · ‖D_k − D̂_k‖²` of `[N, K]` matrices, with `w_k` the squares `[K]` or 1."""
    columns = torch.zeros(delta.shape[1], dtype=torch.float64, device=delta.device)
    for rows in row_chunks(delta.shape[0], delta.shape[1], delta.device):
        columns += (delta[rows] - described[rows]).to(torch.float64).square_().sum(dim=0)
    if input_square_sum is not None:
        columns *= input_square_sum.to(columns)
    return float(columns.sum())


def _weighed(
    pair: Pair,
    device: torch.device,
    candidates: Sequence[Codec],
    keep: bool,
    item: tuple[PlannedParameter, InputStatistics | None],
) -> tuple[Choice, ...]:
    parameter, statistics = item
    delta, _ = delta_and_norms(pair, parameter, device=device)
    sums = None if statistics is None else statistics.square_sum
    choices = []
    for codec in candidates:
        compressed = compress_delta(codec, delta, statistics)
        described = decompress(compressed)
        plain = weighted_error(delta, described, None)
        kept = {name: tensor.cpu() for name, tensor in compressed.tensors.items()} if keep else None
        choices.append(
            Choice(
                codec=codec,
                nbytes=codec_bytes(codec, parameter.spec.shape),
                error=plain if sums is None else weighted_error(delta, described, sums),
                plain_error=plain,
                compressed=None if kept is None else replace(compressed, tensors=kept),
            )
        )
    return tuple(choices)
