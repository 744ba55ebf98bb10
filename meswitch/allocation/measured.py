"""What candidates cost in KL, reckoned from one measurement for each linear and one for each candidate.

Squared errors of unlike codes do not compare: an unbiased step leaves a larger error than a least-squares one and does
less harm, because it does not shrink the expert. And a linear's share in the answers is not its error's share.
"""

from collections.abc import Callable, Sequence
from math import fsum

from meswitch.allocation.evolution import Assignment

__all__ = ["OWN", "measure", "measured_errors"]

OWN = -1
"""In an assignment, instead of a choice's number: the expert's own weights, which nothing describes."""


def measure(
    errors: Sequence[Sequence[float]], fitness: Callable[[Assignment], float], *, reference: int
) -> list[list[float]]:
    """KL that each candidate of each linear is expected to cost, from scorings of one linear or one candidate each.

    First each linear alone is scored by the reference, all others `OWN`, then each candidate for all linears.

    Args:
        errors: of every linear and candidate.
        fitness: KL with an assignment's linears described, in which some may be `OWN`.
        reference: a candidate's number: one that leaves so much that a single linear stands out of rounding.
    """
    count = len(errors)
    alone = [fitness(tuple(reference if i == place else OWN for i in range(count))) for place in range(count)]
    alike = [fitness((number,) * count) for number in range(min(map(len, errors), default=0))]
    return measured_errors(errors, alone, alike, reference=reference)


def measured_errors(
    errors: Sequence[Sequence[float]], alone: Sequence[float], alike: Sequence[float], *, reference: int
) -> list[list[float]]:
    """KL that each candidate of each linear is expected to cost: `s_i · (e_ij / e_ir) · f_j`.

    `s_i` is the KL with linear i alone described, by candidate r; from there it is taken to grow with the candidate's
    error, as it does to second order. `f_j` makes what all linears together cost by candidate j what was measured.

    Args:
        errors: `e_ij`, of every linear i and candidate j.
        alone: `s_i`; what rounding took below 0 counts as 0.
        alike: KL with all linears described by candidate j.
        reference: r.
    """
    plain = [
        # what is described exactly by the reference gives no scale
        [max(share, 0.0) * error / row[reference] if row[reference] > 0 else 0.0 for error in row]
        for row, share in zip(errors, alone, strict=True)
    ]
    sums = [fsum(column) for column in zip(*plain, strict=True)]
    factors = [max(whole, 0.0) / total if total > 0 else 0.0 for whole, total in zip(alike, sums, strict=True)]
    return [[value * factor for value, factor in zip(row, factors, strict=True)] for row in plain]
