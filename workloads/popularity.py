"""Which expert a request wants: the shares of N experts, and draws from them.

The four words are those in common use for batches of adapters; `zipf` is a true Zipf law: the share of rank `r` is
proportional to `r ** -s`, not a geometric series.
"""

import bisect
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["PopularityConfig", "draw_experts", "expert_shares", "parse_popularity"]

PopularityKind = Literal["uniform", "zipf", "distinct", "identical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PopularityConfig:
    """How popular the experts are. The first expert has rank 1.

    Attributes:
        kind: `uniform`: all alike, at random; `zipf`: by rank; `distinct`: one after another, so that no expert comes
            again before all others did; `identical`: always the first.
        exponent: of `zipf` only; 0 is uniform.
    """

    kind: PopularityKind = "uniform"
    exponent: float | None = None

    def __post_init__(self) -> None:
        kinds = get_args(PopularityKind)
        if self.kind not in kinds:
            raise ValueError(f"popularity must be one of {', '.join(kinds)}, got {self.kind!r}")
        if (self.exponent is not None) != (self.kind == "zipf"):
            raise ValueError(
                f"an exponent is given with zipf, and only with it: got {self.kind}, exponent {self.exponent}"
            )
        if self.exponent is not None and not (math.isfinite(self.exponent) and self.exponent >= 0):
            raise ValueError(f"the exponent of zipf must be finite and at least 0, got {self.exponent}")

    def __str__(self) -> str:
        return self.kind if self.exponent is None else f"{self.kind}:{self.exponent:g}"


def parse_popularity(text: str) -> PopularityConfig:
    """The popularity that `uniform`, `zipf:S`, `distinct` or `identical` names.

    Raises:
        ValueError: when it names none.
    """
    kind, _, exponent = text.partition(":")
    if kind not in get_args(PopularityKind) or (kind == "zipf") != bool(exponent):
        raise ValueError(f"popularity must be uniform, zipf:S, distinct or identical, got {text!r}")
    try:
        value = float(exponent) if exponent else None
    except ValueError:
        raise ValueError(f"the exponent of zipf must be a number, got {exponent!r}") from None
    return PopularityConfig(kind=kind, exponent=value)  # type: ignore[arg-type]


def expert_shares(config: PopularityConfig, experts: int) -> tuple[float, ...]:
    """The long-run share of each of `experts` experts; they sum to 1."""
    if experts < 1:
        raise ValueError(f"experts must be at least 1, got {experts}")
    if config.kind == "identical":
        return (1.0, *[0.0] * (experts - 1))
    exponent = config.exponent or 0.0
    weights = [rank**-exponent for rank in range(1, experts + 1)]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def draw_experts(config: PopularityConfig, experts: int, rng: random.Random) -> Iterator[int]:
    """Indices of experts, without end. `rng` advances, except for `distinct` and `identical`."""
    shares = expert_shares(config, experts)
    if config.kind == "distinct":
        return itertools.cycle(range(experts))
    if config.kind == "identical":
        return itertools.repeat(0)
    return _independent_draws(shares, rng)


def _independent_draws(shares: tuple[float, ...], rng: random.Random) -> Iterator[int]:
    bounds = list(itertools.accumulate(shares))
    while True:
        # the last bound may round to just below 1; a draw above it belongs to the last expert
        yield min(bisect.bisect_right(bounds, rng.random()), len(shares) - 1)
