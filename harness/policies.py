"""What an eviction policy would have done with a trace: its experts replayed in order, without engine or GPU.

One position is one request served. A request is a hit if its expert is in a slot, and ready, when it is served. All
experts take one slot. There is no clock, so that two replays of one sequence are the same to the last request.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice

from harness.errors import UsageError
from meswitch.policies import POLICIES, BeladyPolicy, EvictionPolicy, new_policy
from meswitch.residency import BoundedResidency

__all__ = ["BELADY", "REPLAYED", "Replay", "ReplayConfig", "replay", "replay_with"]

BELADY = "belady"

REPLAYED = (*POLICIES, BELADY)
"""Names of the policies that can be replayed: those that an engine can serve by, and the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """How a sequence is replayed.

    Attributes:
        slots: experts that fit into memory.
        pinned: experts that are loaded before the first request and never evicted.
        queue: waiting requests among which one whose expert is ready may go first; 1 is first come, first served.
        max_delay: positions that a request may be served later than in order: the starvation bound.
        prefetch: waiting requests whose experts are loaded ahead.
        load_positions: positions that a load ahead takes; there is one at a time.
    """

    slots: int
    pinned: tuple[str, ...] = ()
    queue: int = 1
    max_delay: int = 0
    prefetch: int = 0
    load_positions: int = 1

    def __post_init__(self) -> None:
        least = {"slots": 1, "queue": 1, "max_delay": 0, "prefetch": 0, "load_positions": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if (self.queue > 1) != (self.max_delay > 0):
            raise UsageError(
                f"a queue and a bound on delay go together, got queue {self.queue} and max_delay {self.max_delay}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What happened.

    Attributes:
        hits: requests whose expert was ready.
        late: of the others, those whose load ahead was under way.
        loads: of experts into slots; pinned ones, and those loaded ahead, included.
        wasted: loads ahead that were evicted before any use.
        delays: by request, in order of arrival: positions it was served later than in order, at least 0.
        was_hit: by request, in order of arrival.
    """

    hits: int
    late: int
    loads: int
    wasted: int
    delays: tuple[int, ...]
    was_hit: tuple[bool, ...]

    @property
    def hit_rate(self) -> float:
        """Hits over all requests, first ones included."""
        return self.hits / len(self.delays)


def replay(requests: Sequence[str], policy: str, config: ReplayConfig) -> Replay:
    """The replay of `requests`, experts' names in order of arrival, under the policy of that name.

    Raises:
        UsageError: no policy has that name; it needs the order, and the order is to be changed; pins do not fit.
    """
    if policy not in REPLAYED:
        raise UsageError(f"a policy must be one of {', '.join(REPLAYED)}, got {policy!r}")
    if policy == BELADY and config.queue > 1:
        raise UsageError(f"{BELADY} needs to know in which order requests are served: replay it with a queue of 1")
    return replay_with(requests, BeladyPolicy(requests) if policy == BELADY else new_policy(policy), config)


def replay_with(requests: Sequence[str], policy: EvictionPolicy, config: ReplayConfig) -> Replay:
    """The replay of `requests` (at least one) under a policy that has seen nothing yet."""
    if not requests:
        raise UsageError("there must be at least one request to replay, got none")
    _check_pinned(requests, config)
    replayer = _Replayer(policy, config)
    waiting: list[int] = []
    coming = iter(range(len(requests)))
    delays = [0] * len(requests)
    was_hit = [False] * len(requests)
    for position in range(len(requests)):
        waiting.extend(islice(coming, max(config.queue, config.prefetch + 1) - len(waiting)))
        overdue = position - waiting[0] >= config.max_delay
        ready = () if overdue else (i for i in waiting[: config.queue] if replayer.is_ready(requests[i], position))
        served = next(iter(ready), waiting[0])
        waiting.remove(served)
        delays[served] = max(position - served, 0)
        ahead = list(dict.fromkeys(requests[i] for i in waiting[: config.prefetch]))
        before = replayer.hits
        replayer.serve(requests[served], position, ahead)
        was_hit[served] = replayer.hits > before
        replayer.load_ahead(ahead, position, using=requests[served])
    return Replay(
        hits=replayer.hits,
        late=replayer.late,
        loads=replayer.loads,
        wasted=replayer.wasted,
        delays=tuple(delays),
        was_hit=tuple(was_hit),
    )


def _check_pinned(requests: Sequence[str], config: ReplayConfig) -> None:
    experts = set(requests)
    if unknown := sorted(set(config.pinned) - experts):
        raise UsageError(f"a pinned expert must be one of {', '.join(sorted(experts))}, got {unknown[0]!r}")
    needed = len(set(config.pinned)) + (not experts <= set(config.pinned))
    if needed > config.slots:
        raise UsageError(
            f"pinned experts must leave a slot for the others: {len(set(config.pinned))} pinned of {len(experts)} "
            f"experts need {needed} slots, got {config.slots}"
        )


@dataclass(slots=True)
class _Replayer:
    policy: EvictionPolicy
    config: ReplayConfig
    hits: int = 0
    late: int = 0
    loads: int = 0
    wasted: int = 0
    # position from which on an expert loaded ahead is ready
    _ready: dict[str, int] = field(default_factory=dict)
    _unused: set[str] = field(default_factory=set)
    _free_at: int = 0
    _held: BoundedResidency = field(init=False)

    def __post_init__(self) -> None:
        self._held = BoundedResidency(self.config.slots, self.policy, pinned=self.config.pinned)
        for name in dict.fromkeys(self.config.pinned):
            self._load(name, ())

    def is_ready(self, name: str, position: int) -> bool:
        return name in self._held and self._ready.get(name, 0) <= position

    def serve(self, name: str, position: int, ahead: Collection[str]) -> None:
        if self.is_ready(name, position):
            self.hits += 1
        elif name in self._held:
            self.late += 1
        else:
            loading = self._loading(position)
            # what the queue wants soon stays if anything else can go; what is being loaded, if possible
            any(self._load(name, keep) for keep in ({*ahead, *loading}, loading, ()))
        self._ready.pop(name, None)
        self._unused.discard(name)
        self._held.touch(name)

    def load_ahead(self, ahead: Sequence[str], position: int, *, using: str) -> None:
        """Start to load the first missing expert of `ahead`, while `using` is in use, unless a load is under way."""
        missing = next((place for place, name in enumerate(ahead) if name not in self._held), None)
        if missing is None or self._free_at > position:
            return
        name = ahead[missing]
        if self._load(name, {using, *ahead[:missing], *self._loading(position)}):
            self._unused.add(name)
            self._ready[name] = self._free_at = position + self.config.load_positions

    def _loading(self, position: int) -> set[str]:
        return {name for name, at in self._ready.items() if at > position}

    def _load(self, name: str, keep: Collection[str]) -> bool:
        victims = self._held.reserve(name, 1, keep=keep)
        for victim in victims or ():
            self.wasted += victim in self._unused
            self._unused.discard(victim)
            self._ready.pop(victim, None)
        self.loads += victims is not None
        return victims is not None
