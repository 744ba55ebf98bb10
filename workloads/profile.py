"""What a trace asks of a system, in numbers: how fast, how bursty, how many experts, how often another one."""

import bisect
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workloads.trace import Trace, TraceRequest

__all__ = ["Spread", "TraceProfile", "index_of_dispersion", "profile_trace", "reuse_distances", "working_set_sizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean, median, 90th percentile and largest of a list of numbers. Percentiles are of rank `ceil(q * n)`."""

    mean: float
    p50: float
    p90: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceProfile:
    """A trace in numbers; `None` where the trace does not say or the number is undefined.

    Attributes:
        rate_per_s: gaps a second, between the first arrival and the last.
        gap_cv: standard deviation over mean of the gaps; 1 is Poisson's.
        dispersion: variance over mean of the arrivals in windows of `window_s`; 1 is Poisson's at any width.
        switch_rate: share of consecutive requests with experts that want two different ones.
        experts: requests of each expert, most wanted first.
        working_set: different experts wanted in a window of `window_s` that has any requests.
        reuse_distance: different other experts wanted since the same one was last wanted.
        input_tokens, output_tokens: lengths that the trace states.
        prompt_chars: lengths of prompts given as text.
        prefix_share: share of the blocks in `hash_ids` that came before, in the same request or an earlier one.
    """

    requests: int
    duration_s: float
    window_s: float
    rate_per_s: float | None
    gap_cv: float | None
    dispersion: float | None
    switch_rate: float | None
    experts: dict[str, int]
    working_set: Spread | None
    reuse_distance: Spread | None
    input_tokens: Spread | None
    output_tokens: Spread | None
    prompt_chars: Spread | None
    prefix_share: float | None


def profile_trace(trace: Trace, *, window_s: float = 10.0) -> TraceProfile:
    """The profile of the trace, with windows of `window_s` seconds counted from the first arrival."""
    if not (math.isfinite(window_s) and window_s > 0):
        raise ValueError(f"window_s must be positive and finite, got {window_s}")
    start_ms = trace.requests[0].t_ms
    times_s = [(request.t_ms - start_ms) / 1000 for request in trace.requests]
    gaps_s = [b - a for a, b in pairwise(times_s)]
    experts = [(at_s, r.expert) for at_s, r in zip(times_s, trace.requests, strict=True) if r.expert is not None]
    names = [name for _, name in experts]
    return TraceProfile(
        requests=len(trace.requests),
        duration_s=trace.duration_s,
        window_s=window_s,
        rate_per_s=len(gaps_s) / trace.duration_s if trace.duration_s else None,
        gap_cv=_cv(gaps_s),
        dispersion=index_of_dispersion(times_s, window_s),
        switch_rate=statistics.fmean(a != b for a, b in pairwise(names)) if len(names) > 1 else None,
        experts=dict(Counter(names).most_common()),
        working_set=_spread(working_set_sizes(experts, window_s)),
        reuse_distance=_spread(reuse_distances(names)),
        prefix_share=_prefix_share(trace.requests),
        **_lengths(trace.requests),
    )


def index_of_dispersion(times_s: Sequence[float], window_s: float) -> float | None:
    """Variance over mean of the arrivals in whole windows; `None` with fewer than two windows.

    `times_s` ascend from 0; arrivals after the last whole window are left out, since a part of a window holds fewer.
    """
    windows = int(times_s[-1] // window_s) if times_s else 0
    if windows < 2:
        return None
    bounds = [bisect.bisect_left(times_s, i * window_s) for i in range(windows + 1)]
    counts = [b - a for a, b in pairwise(bounds)]
    mean = statistics.fmean(counts)
    return statistics.variance(counts) / mean if mean else None


def working_set_sizes(experts: Iterable[tuple[float, str]], window_s: float) -> list[int]:
    """Different experts in each window that has any, in order of time."""
    windows: dict[int, set[str]] = {}
    for at_s, name in experts:
        windows.setdefault(int(at_s // window_s), set()).add(name)
    return [len(names) for names in windows.values()]


def reuse_distances(names: Sequence[str]) -> list[int]:
    """For each request whose expert was wanted before: how many different others were wanted in between.

    A store that holds `n` experts and drops the least recently used hits exactly where the distance is below `n`.
    """
    # most recently wanted last, so the distance is the number of names behind the expert's own place
    recency: list[str] = []
    distances = []
    for name in names:
        if name in recency:
            place = recency.index(name)
            distances.append(len(recency) - 1 - place)
            del recency[place]
        recency.append(name)
    return distances


def _cv(gaps: Sequence[float]) -> float | None:
    mean = statistics.fmean(gaps) if gaps else 0.0
    return statistics.pstdev(gaps) / mean if mean else None


def _lengths(requests: Iterable[TraceRequest]) -> dict[str, Spread | None]:
    values: dict[str, list[int]] = {"input_tokens": [], "output_tokens": [], "prompt_chars": []}
    for request in requests:
        tokens = len(request.token_ids) if request.token_ids is not None else request.input_length
        chars = len(request.prompt) if request.prompt is not None else None
        measured = {"input_tokens": tokens, "output_tokens": request.output_length, "prompt_chars": chars}
        for name, value in measured.items():
            if value is not None:
                values[name].append(value)
    return {name: _spread(found) for name, found in values.items()}


def _prefix_share(requests: Iterable[TraceRequest]) -> float | None:
    blocks = [block for request in requests for block in request.hash_ids or ()]
    return 1 - len(set(blocks)) / len(blocks) if blocks else None


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)
    at = [ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.9)]
    return Spread(mean=statistics.fmean(ordered), p50=at[0], p90=at[1], max=ordered[-1])
