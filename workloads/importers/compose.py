"""What a source lacks and we add, all of it declared in the header: experts, arrivals, and times within a bin."""

import dataclasses
import random
from collections.abc import Iterable
from dataclasses import dataclass

from workloads.arrivals import ArrivalConfig, arrival_times
from workloads.errors import WorkloadError
from workloads.generate import seeded_stream
from workloads.locality import with_locality
from workloads.popularity import PopularityConfig, draw_experts
from workloads.trace import TraceRequest

__all__ = ["CompositionConfig", "compose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionConfig:
    """What to add to an imported trace.

    Attributes:
        experts: names to assign; none leaves requests without an expert.
        popularity, switch_probability: how they are assigned, in the order of the requests.
        arrivals: replaces the times of the source.
        spread_ms: moves each request by a uniform part of so many ms, for a source whose clock ticks that coarsely.
        limit: keep the first so many requests.
    """

    experts: tuple[str, ...] = ()
    popularity: PopularityConfig | None = None
    switch_probability: float = 1.0
    arrivals: ArrivalConfig | None = None
    spread_ms: float = 0.0
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.experts) != (self.popularity is not None):
            raise ValueError("experts and their popularity go together: give both or none")
        if len(set(self.experts)) != len(self.experts):
            raise ValueError(f"experts must be distinct, got {', '.join(self.experts)}")
        if not 0 <= self.switch_probability <= 1:
            raise ValueError(f"switch_probability must be between 0 and 1, got {self.switch_probability}")
        if not 0 <= self.spread_ms < float("inf"):
            raise ValueError(f"spread_ms must be finite and at least 0, got {self.spread_ms}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")

    @property
    def declaration(self) -> str:
        """What was composed, in words, for the header's `assignment`."""
        parts = ["experts: none assigned"]
        if self.popularity is not None:
            parts = [
                f"experts composed, the source names none: {self.popularity} over {', '.join(self.experts)}, "
                f"switch probability {self.switch_probability:g}"
            ]
        if self.arrivals is not None:
            parts.append(f"arrivals composed: {self.arrivals} at {self.arrivals.rate_per_s:g} requests/s")
        if self.spread_ms:
            parts.append(f"times spread uniformly within {self.spread_ms:g} ms")
        return "; ".join(parts)


def compose(requests: Iterable[TraceRequest], config: CompositionConfig) -> list[TraceRequest]:
    """The requests in order of time, with what `config` adds.

    Raises:
        WorkloadError: when there is no request.
    """
    timed = _timed(requests, config)
    if not timed:
        raise WorkloadError("the source must hold at least one usable request, got none")
    if config.popularity is None:
        return timed
    draws = draw_experts(config.popularity, len(config.experts), seeded_stream(config.seed, "popularity"))
    wanted = with_locality(draws, config.switch_probability, seeded_stream(config.seed, "locality"))
    assigned = zip(timed, wanted, strict=False)
    return [dataclasses.replace(request, expert=config.experts[index]) for request, index in assigned]


def _timed(requests: Iterable[TraceRequest], config: CompositionConfig) -> list[TraceRequest]:
    # sorting is stable, so requests of one moment keep the order of the source
    ordered = sorted(requests, key=_moment)[: config.limit]
    if config.arrivals is not None:
        times_s = arrival_times(config.arrivals, seeded_stream(config.seed, "arrivals"))
        return [
            dataclasses.replace(request, t_ms=round(at_s * 1000, 3))
            for request, at_s in zip(ordered, times_s, strict=False)
        ]
    if config.spread_ms:
        rng = seeded_stream(config.seed, "spread")
        return sorted((_spread(request, config.spread_ms, rng) for request in ordered), key=_moment)
    return ordered


def _spread(request: TraceRequest, spread_ms: float, rng: random.Random) -> TraceRequest:
    return dataclasses.replace(request, t_ms=round(request.t_ms + rng.random() * spread_ms, 3))


def _moment(request: TraceRequest) -> float:
    return request.t_ms
