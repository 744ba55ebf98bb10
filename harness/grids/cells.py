"""The cells of each grid: what stands in place of an expert's weights.

D̂ is what a codec makes of a delta.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from harness.fidelity.allocated import Allocated
from harness.fidelity.allocator import Allocator
from harness.fidelity.describe import describe_one, size_of, sizes_of
from harness.fidelity.moments import Moments
from harness.fidelity.subject import Subject
from harness.grids.quantised import PRECISIONS, quantised
from meswitch.allocation import Allocation
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
                    bits_per_weight=size_of(parse_codec(spec), subject)[0],
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


def allocation_cells(allocator: Allocator, bits: float) -> Iterator[Cell]:
    """One budget, spent alike on all linears, by the knapsack over plain and weighted errors, and by search.

    Args:
        allocator: whose search starts from the fittest of the knapsacks and of one codec for all linears.
        bits: that a linear weight may take on average.
    """
    subject = allocator.subject

    def cell(how: str, allocation: Allocation) -> Cell:
        described = allocator.described(allocation)
        return Cell(
            linear=f"{bits:g} bits, {how}",
            bits_per_weight=sizes_of(allocation.codecs, subject)[0],
            weights={name: subject.base[name] + delta for name, delta in described.items()},
        )

    yield cell("one codec", allocator.alike(bits))
    for by in ("plain", "weighted"):
        allocation, _ = allocator.allocate(Allocated(bits=bits, by=by))
        yield cell(f"knapsack over {by} errors", allocation)
    allocation, _ = allocator.allocate(Allocated(bits=bits, by="search"))
    yield cell("search from the fittest", allocation)
