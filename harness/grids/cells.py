"""The cells of each grid: what stands in place of an expert's weights.

D̂ is what a codec makes of a delta.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from harness.fidelity.describe import describe_one
from harness.fidelity.moments import Moments
from harness.fidelity.subject import Subject
from harness.grids.quantised import PRECISIONS, quantised
from meswitch.allocation import Choice, EvolutionConfig, allocate_linears, evolve
from meswitch.allocation.sensitivity import weighted_error
from meswitch.codecs import parse_codec

__all__ = ["BASE_CODECS", "CANDIDATES", "TABLE_CODECS", "Cell", "allocation_cells", "base_cells", "table_cells"]

Weights = Mapping[str, torch.Tensor]

EXACT = "dense:dtype=float32"
BASE_CODECS = (EXACT, "rtn:bits=4", "salient:bits=2,channels=8", "rtn:bits=2", "sparse-sign:group=4")
TABLE_CODECS = ("dense:dtype=float16", "rtn:bits=8", "rtn:bits=4", "rtn:bits=2")
CANDIDATES = ("sparse-sign:group=16", "sparse-sign:group=8", "sparse-sign:group=4", "rtn:bits=2", "rtn:bits=4")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One place of a grid, and the weights that differ from the expert's own there.

    Attributes:
        base: precision of the base.
        delta_of: the base that the delta was taken from: `original`, or `quantised`, the one that it is added to.
        linear, embedding, head: codecs; or for the linears how their codecs were chosen.
        bits_per_weight: of the linears' deltas.
    """

    base: str = "float32"
    delta_of: str = "original"
    linear: str = EXACT
    embedding: str = EXACT
    head: str = EXACT
    bits_per_weight: float | None = None
    weights: Weights


def described(subject: Subject, moments: Moments, spec: str, base: Weights) -> dict[str, torch.Tensor]:
    """D̂ of all linears, of the expert less `base`."""
    codec = parse_codec(spec)
    return {
        name: describe_one(codec, subject.expert[name] - base[name], moments.second[name], moments.square_sums[name])
        for name in subject.linears
    }


def bits_of(subject: Subject, spec: str) -> float:
    """Bits per weight of the linears under one codec."""
    codec = parse_codec(spec)
    shapes = [tuple(subject.base[name].shape) for name in subject.linears]
    stored = sum(s.nbytes for N, K in shapes for s in codec.layout(N, K).values())
    return 8 * stored / sum(N * K for N, K in shapes)


def base_cells(subject: Subject, moments: Moments) -> Iterator[Cell]:
    """Base × codec of the linears; a quantised base gets deltas of the original one and of itself."""
    for precision in PRECISIONS:
        kept = quantised(subject.base, subject.linears, precision)
        for spec in BASE_CODECS:
            for delta_of, base in (("original", subject.base), ("quantised", kept)):
                if precision == "float32" and delta_of == "quantised":
                    continue
                delta = described(subject, moments, spec, base)
                yield Cell(
                    base=precision,
                    delta_of=delta_of,
                    linear=spec,
                    bits_per_weight=bits_of(subject, spec),
                    weights={name: kept[name] + delta[name] for name in delta},
                )


def table_cells(subject: Subject, moments: Moments) -> Iterator[Cell]:
    """Embedding × head, with exact linears; the head is one of its own, also where the model ties it."""
    del moments
    base, expert = subject.base[EMBEDDING], subject.expert[EMBEDDING]
    heads = [weights.get(HEAD, weights[EMBEDDING]) for weights in (subject.base, subject.expert)]
    for embedding in TABLE_CODECS:
        for head in TABLE_CODECS:
            tables = {
                EMBEDDING: base + describe_one(parse_codec(embedding), expert - base, None, torch.ones(base.shape[1])),
                HEAD: heads[0] + describe_one(parse_codec(head), heads[1] - heads[0], None, torch.ones(base.shape[1])),
            }
            yield Cell(embedding=embedding, head=head, weights=tables)


Fitness = Callable[[Weights, int], float]


def allocation_cells(
    subject: Subject, moments: Moments, bits: float, fitness: Fitness, config: EvolutionConfig
) -> Iterator[Cell]:
    """One budget, spent alike on all linears, by the knapsack over plain and weighted errors, and by search.

    Args:
        bits: that a linear weight may take on average.
        fitness: of the linears' weights on the first so many calibration items: the lower, the better.
        config: of the search, which starts from the fitter of the two knapsacks, as `meswitch compress --search` does.
    """
    made = {spec: described(subject, moments, spec, subject.base) for spec in CANDIDATES}
    names = subject.linears

    def weights_of(assignment: Sequence[int]) -> Weights:
        chosen = zip(names, assignment, strict=True)
        return {name: subject.base[name] + made[CANDIDATES[number]][name] for name, number in chosen}

    def cell(how: str, assignment: Sequence[int]) -> Cell:
        used = 8 * sum(costs[i][number] for i, number in enumerate(assignment)) / elements
        return Cell(linear=how, bits_per_weight=used, weights=weights_of(assignment))

    elements = sum(subject.base[name].numel() for name in names)
    costs = [[choice.nbytes for choice in row] for row in choices(subject, moments, made, weighted=False).values()]
    budget = int(bits * elements / 8)
    fitting = [j for j in range(len(CANDIDATES)) if sum(row[j] for row in costs) <= budget]
    alike = (max(fitting, key=lambda j: sum(row[j] for row in costs)),) * len(names)
    yield cell(f"{bits:g} bits, one codec", alike)
    starts = []
    for weighted in (False, True):
        allocation = allocate_linears(choices(subject, moments, made, weighted=weighted), budget)
        numbers = tuple(CODECS.index(allocation.codecs[name]) for name in names)
        starts.append(numbers)
        yield cell(f"{bits:g} bits, knapsack over {'weighted' if weighted else 'plain'} errors", numbers)
    first = min(starts, key=lambda numbers: fitness(weights_of(numbers), config.samples[-1]))
    found = evolve(first, costs, budget, lambda a, samples: fitness(weights_of(a), samples), config)
    yield cell(f"{bits:g} bits, search from the fitter", found)


CODECS = tuple(parse_codec(spec) for spec in CANDIDATES)


def choices(
    subject: Subject, moments: Moments, made: Mapping[str, Weights], *, weighted: bool
) -> dict[str, tuple[Choice, ...]]:
    """Of every linear, what each candidate takes and leaves."""
    found = {}
    for name in subject.linears:
        delta = subject.expert[name] - subject.base[name]
        sums = moments.square_sums[name] if weighted else None
        found[name] = tuple(
            Choice(
                codec=codec,
                nbytes=sum(s.nbytes for s in codec.layout(*delta.shape).values()),
                error=weighted_error(delta, made[spec][name], sums),
            )
            for spec, codec in zip(CANDIDATES, CODECS, strict=True)
        )
    return found
