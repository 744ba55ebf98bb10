"""Whether an expert descends from a base: how far its weights are from the base's."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch

from meswitch.architecture import ParameterKind
from meswitch.errors import CheckpointError, WrongParentError
from meswitch.pair import Pair
from meswitch.plan import PlannedParameter

__all__ = ["MAX_RELATIVE_NORM", "check_parent", "delta_and_norms", "relative_norm", "sample_norms"]

MAX_RELATIVE_NORM = 0.7
"""Unrelated models of one size are √2 apart in units of the base's norm; fine-tunes mostly stay below 0.1."""

SAMPLES = 8


def delta_and_norms(
    pair: Pair, parameter: PlannedParameter, *, device: torch.device | None = None
) -> tuple[torch.Tensor, dict[str, float]]:
    """The delta `[N, K]` float32 on `device`, by default the CPU, and the squared norms of `delta` and `base`.

    Raises:
        CheckpointError: base or expert holds infinite or missing numbers.
    """
    assert parameter.base_name is not None
    base = pair.base.read(parameter.base_name).to(device or torch.device("cpu"))
    delta = pair.expert.delta(parameter.name, base)
    norms = {"delta": _square_norm(delta), "base": _square_norm(base)}
    if not all(math.isfinite(x) for x in norms.values()):
        raise CheckpointError(f"{parameter.name} must be finite in base and expert, got infinite or missing numbers")
    return delta, norms


def relative_norm(norms: Iterable[Mapping[str, float]]) -> float | None:
    """Norm of all deltas over the norm of all bases; `None` where there is no base to compare with."""
    pairs = [(x["delta"], x["base"]) for x in norms]
    base = math.fsum(b for _, b in pairs)
    return math.sqrt(math.fsum(d for d, _ in pairs) / base) if base else None


def sample_norms(pair: Pair, plan: tuple[PlannedParameter, ...]) -> Iterator[Mapping[str, float]]:
    """Norms of a few linears spread over the depth: a wrong base shows before anything is written."""
    linears = [p for p in plan if p.kind is ParameterKind.LINEAR]
    stride = max(1, len(linears) // SAMPLES)
    return (delta_and_norms(pair, parameter)[1] for parameter in linears[::stride])


def check_parent(pair: Pair, norms: Iterable[Mapping[str, float]]) -> None:
    """Nothing, if the expert is close enough to the base.

    Raises:
        WrongParentError: it is further away than `MAX_RELATIVE_NORM`.
    """
    found = relative_norm(norms)
    if found is not None and found > MAX_RELATIVE_NORM:
        raise WrongParentError(
            f"{pair.expert.root} does not look like a fine-tune of {pair.base.root}: the relative norm of its delta "
            f"must be at most {MAX_RELATIVE_NORM}, got {found:.2f}; give its real base, or force it"
        )


def _square_norm(matrix: torch.Tensor) -> float:
    # accumulated in float32, without a float32 copy of the matrix
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float32)) ** 2
