"""When requests arrive: renewal processes, one gap drawn for each request.

Gaps are used as drawn. Clipping them, or rescaling them so that the last request meets a target, would change the very
burstiness that the process is named for.
"""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["ArrivalConfig", "arrival_times", "parse_arrivals"]

ArrivalKind = Literal["constant", "poisson", "gamma"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalConfig:
    """An arrival process.

    Attributes:
        kind: `constant`: equal gaps; `poisson`: exponential gaps; `gamma`: gamma gaps of any burstiness.
        rate_per_s: mean requests a second.
        cv: coefficient of variation of the gaps; of `gamma` only (0 and 1 are the others' own).
    """

    kind: ArrivalKind = "poisson"
    rate_per_s: float
    cv: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(ArrivalKind):
            raise ValueError(f"arrivals must be one of {', '.join(get_args(ArrivalKind))}, got {self.kind!r}")
        if not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise ValueError(f"rate_per_s must be positive and finite, got {self.rate_per_s}")
        if (self.cv is not None) != (self.kind == "gamma"):
            raise ValueError(f"cv is given with gamma arrivals, and only with them: got {self.kind}, cv {self.cv}")
        if self.cv is not None and not (math.isfinite(self.cv) and self.cv > 0):
            raise ValueError(f"cv must be positive and finite, got {self.cv}")

    def __str__(self) -> str:
        return self.kind if self.cv is None else f"{self.kind}:{self.cv:g}"


def parse_arrivals(text: str, rate_per_s: float) -> ArrivalConfig:
    """The process that `constant`, `poisson` or `gamma:CV` names.

    Raises:
        ValueError: when it names none.
    """
    kind, _, cv = text.partition(":")
    if kind not in get_args(ArrivalKind) or (kind == "gamma") != bool(cv):
        raise ValueError(f"arrivals must be constant, poisson or gamma:CV, got {text!r}")
    try:
        value = float(cv) if cv else None
    except ValueError:
        raise ValueError(f"the CV of gamma arrivals must be a number, got {cv!r}") from None
    return ArrivalConfig(kind=kind, rate_per_s=rate_per_s, cv=value)  # type: ignore[arg-type]


def arrival_times(config: ArrivalConfig, rng: random.Random) -> Iterator[float]:
    """Seconds at which requests arrive, without end; the first one after one gap. `rng` advances."""
    return itertools.accumulate(_gaps(config, rng))


def _gaps(config: ArrivalConfig, rng: random.Random) -> Iterator[float]:
    mean_s = 1 / config.rate_per_s
    if config.kind == "constant":
        yield from itertools.repeat(mean_s)
    if config.kind == "poisson":
        while True:
            # random() is below 1, so the logarithm is finite
            yield -math.log(1 - rng.random()) * mean_s
    assert config.cv is not None
    # of a gamma distribution, CV is 1 / sqrt(shape) and the mean is shape x scale
    shape = 1 / config.cv**2
    while True:
        yield rng.gammavariate(shape, mean_s / shape)
