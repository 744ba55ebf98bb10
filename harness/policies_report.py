"""Policies compared on one sequence, beside what the sequence's own locality allows: flat rows for tables and JSON."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path

from harness.policies import BELADY, REPLAYED, Replay, ReplayConfig, replay
from harness.policies_locality import sch, srp, working_set
from harness.policies_sequence import ExpertSequence
from harness.results import write_atomic
from harness.statistics import percentile
from workloads.profile import reuse_distances

__all__ = [
    "SCHEMA",
    "ComparisonConfig",
    "LocalityRow",
    "PolicyComparison",
    "PolicyRow",
    "compare_policies",
    "write_comparison",
]

SCHEMA = "harness-policies/1"
WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonConfig:
    """What is compared.

    Attributes:
        slots: numbers of slots, each with all policies.
        policies: names of `harness.policies.REPLAYED`.
        pinned, queue, max_delay, prefetch, load_positions: as in `ReplayConfig`. Where they change anything, each
            policy is replayed without them too.
    """

    slots: tuple[int, ...]
    policies: tuple[str, ...] = REPLAYED
    pinned: tuple[str, ...] = ()
    queue: int = 1
    max_delay: int = 0
    prefetch: int = 0
    load_positions: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """One policy on so many slots.

    Attributes:
        hit_rate: of all requests, first ones included.
        belady_hit_rate: the bound for any policy that serves in order and loads on demand, without pins.
        of_belady: the ratio of the two; above 1 only for what the bound does not cover; `None` if the bound is 0.
        late, loads, wasted: as in `Replay`.
        belady_loads: the fewest loads that can serve the requests in order, ahead or on demand.
        delay_p99, delay_max: positions that a request was served later than in order.
    """

    slots: int
    policy: str
    pinned: int
    queue: int
    max_delay: int
    prefetch: int
    load_positions: int
    requests: int
    experts: int
    hits: int
    hit_rate: float
    belady_hit_rate: float
    of_belady: float | None
    late: int
    loads: int
    belady_loads: int
    wasted: int
    delay_p99: int
    delay_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalityRow:
    """Locality at one window, in requests, and one number of slots; see `harness.policies_locality`."""

    window: int
    slots: int
    working_set: float | None
    srp: float | None
    sch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyComparison:
    """All rows of one sequence.

    Attributes:
        switch_rate: share of consecutive requests that want different experts; `None` of a single request.
        reuse_distance: by distance, requests: different other experts since the same one was last wanted. First
            requests have none. LRU on n slots hits where it is below n.
    """

    schema: str = SCHEMA
    source: str
    sha256: str
    requests: int
    experts: int
    switch_rate: float | None
    reuse_distance: dict[int, int]
    rows: tuple[PolicyRow, ...]
    locality: tuple[LocalityRow, ...]


def compare_policies(sequence: ExpertSequence, config: ComparisonConfig) -> PolicyComparison:
    """The comparison, the same for the same sequence and config.

    Raises:
        UsageError: a policy, a number of slots or an option is not allowed.
    """
    requests = sequence.requests
    distances = reuse_distances(requests)
    changes = [a != b for a, b in pairwise(requests)]
    windows = list(takewhile(lambda window: window <= len(requests), WINDOWS))
    locality = [
        LocalityRow(
            window=window,
            slots=slots,
            working_set=working_set(requests, window),
            srp=srp(requests, window),
            sch=sch(requests, window, slots),
        )
        for slots in config.slots
        for window in windows
    ]
    return PolicyComparison(
        source=sequence.source,
        sha256=sequence.sha256,
        requests=len(requests),
        experts=len(set(requests)),
        switch_rate=sum(changes) / len(changes) if changes else None,
        reuse_distance={distance: distances.count(distance) for distance in sorted(set(distances))},
        rows=tuple(_rows(requests, config)),
        locality=tuple(locality),
    )


def write_comparison(path: Path, comparison: PolicyComparison) -> None:
    """Write it as JSON, whole or not at all. Equal comparisons give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(dataclasses.asdict(comparison), indent=1) + "\n").encode())


def _rows(requests: Sequence[str], config: ComparisonConfig) -> Iterator[PolicyRow]:
    for slots in config.slots:
        plain = ReplayConfig(slots=slots)
        changed = ReplayConfig(
            slots=slots,
            pinned=config.pinned,
            queue=config.queue,
            max_delay=config.max_delay,
            prefetch=config.prefetch,
            load_positions=config.load_positions if config.prefetch else 1,
        )
        bound = replay(requests, BELADY, plain)
        for policy in config.policies:
            yield _row(requests, policy, plain, replay(requests, policy, plain), bound)
            # the bound is a bound only in order, on demand and without pins
            if changed != plain and policy != BELADY:
                yield _row(requests, policy, changed, replay(requests, policy, changed), bound)


def _row(requests: Sequence[str], policy: str, config: ReplayConfig, seen: Replay, bound: Replay) -> PolicyRow:
    return PolicyRow(
        slots=config.slots,
        policy=policy,
        pinned=len(config.pinned),
        queue=config.queue,
        max_delay=config.max_delay,
        prefetch=config.prefetch,
        load_positions=config.load_positions,
        requests=len(requests),
        experts=len(set(requests)),
        hits=seen.hits,
        hit_rate=seen.hit_rate,
        belady_hit_rate=bound.hit_rate,
        of_belady=seen.hits / bound.hits if bound.hits else None,
        late=seen.late,
        loads=seen.loads,
        belady_loads=bound.loads,
        wasted=seen.wasted,
        delay_p99=int(percentile(seen.delays, 0.99)),
        delay_max=max(seen.delays),
    )
