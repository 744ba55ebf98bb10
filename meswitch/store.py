"""Experts in memory: bounded by bytes, read in the background, leased while a row uses them.

    request(name) --> evict, reserve, read in a worker thread --> poll() --> resident --> lease / release

An expert that cannot be read fails its requests; it never becomes another one.
"""

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from meswitch.core import Residency, SwitchSpan
from meswitch.errors import CapacityError, EngineError, MeswitchError, StorageError, UnknownExpertError
from meswitch.policies import EvictionPolicy
from meswitch.residency import BoundedResidency

__all__ = ["ExpertStore", "LoadFailed", "Loaded", "Payload", "Source"]


class Payload(Protocol):
    """Weights as the store holds them."""

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""


P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Generic[P]):
    """Where an expert comes from.

    Attributes:
        nbytes: memory it will take, known before it is read.
        read_bytes: bytes of the files that are read for it.
        read: returns the verified weights; called in a worker thread.
    """

    nbytes: int
    read_bytes: int
    read: Callable[[], P]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A switch that is complete."""

    span: SwitchSpan


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A switch that failed: the expert is not resident."""

    expert: str
    error: MeswitchError


@dataclass(frozen=True, slots=True)
class _Loading(Generic[P]):
    future: Future[tuple[P, int]]
    decided_ns: int
    evicted: tuple[str, ...]


class ExpertStore(Generic[P]):
    """Experts by name, at most `capacity_bytes` of them. One thread owns it; only `Source.read` runs elsewhere.

    Args:
        sources: of all experts.
        capacity_bytes: of what is held and being read.
        executor: reads.
        policy: chooses who makes room; least recently used if absent.
        pinned: experts that are read at once and never evicted.
        on_evict: hears of the weights that go, before anything is read into their room.
        clock_ns: monotonic.

    Raises:
        CapacityError: an expert cannot fit, alone or beside those that are pinned.
    """

    def __init__(
        self,
        sources: Mapping[str, Source[P]],
        *,
        capacity_bytes: int,
        executor: Executor,
        policy: EvictionPolicy | None = None,
        pinned: Collection[str] = (),
        on_evict: Callable[[P], None] = lambda weights: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        for name, source in sources.items():
            if source.nbytes > capacity_bytes:
                raise CapacityError(
                    f"every expert must fit into memory by itself: {name} takes {source.nbytes} bytes, "
                    f"{capacity_bytes} are left for experts; raise the memory budget"
                )
        _check_pinned(sources, pinned, capacity_bytes)
        self._sources = dict(sources)
        self._residency = BoundedResidency(capacity_bytes, policy, pinned=pinned)
        self._executor = executor
        self._on_evict = on_evict
        self._clock_ns = clock_ns
        self._held: dict[str, P] = {}
        self._loading: dict[str, _Loading[P]] = {}
        self._switches = 0
        self._evictions = 0
        self._moved_bytes = 0
        for name in pinned:
            self.request(name)

    @property
    def names(self) -> Collection[str]:
        """Experts that can be asked for."""
        return self._sources.keys()

    @property
    def resident(self) -> Collection[str]:
        """Experts that a row can be computed with now."""
        return self._held.keys()

    @property
    def loading(self) -> Collection[str]:
        """Experts that are being read."""
        return self._loading.keys()

    @property
    def used_bytes(self) -> int:
        """Bytes held or reserved."""
        return self._residency.used_bytes

    @property
    def counters(self) -> Mapping[str, int]:
        """`switches`, `evictions`, `moved_bytes` since start."""
        return {"switches": self._switches, "evictions": self._evictions, "moved_bytes": self._moved_bytes}

    def request(self, name: str, *, keep: Collection[str] = ()) -> bool:
        """Whether `name` is resident or on its way; `False` if leased and kept experts leave no room.

        Args:
            name: one of `names`.
            keep: experts that must not be evicted for it.
        """
        if name in self._held or name in self._loading:
            return True
        source = self._sources[name]
        decided_ns = self._clock_ns()
        # what is being read is wanted by somebody: it must not make room before it was ever used
        kept = {*keep, *self._loading}
        evicted = self._residency.reserve(name, source.nbytes, cost_bytes=source.read_bytes, keep=kept)
        if evicted is None:
            return False
        for victim in evicted:
            self._on_evict(self._held.pop(victim))
        self._evictions += len(evicted)
        future = self._executor.submit(self._read, source)
        self._loading[name] = _Loading(future, decided_ns, evicted)
        return True

    def poll(self) -> list[Loaded | LoadFailed]:
        """Switches that ended since the last call, in the order they were asked for."""
        ended = [name for name, loading in self._loading.items() if loading.future.done()]
        return [self._end(name, self._loading.pop(name)) for name in ended]

    def lease(self, name: str) -> P:
        """The weights of a resident expert, which stays until `release`."""
        weights = self._held[name]
        self._residency.lease(name)
        return weights

    def release(self, name: str) -> None:
        """Give back one lease."""
        self._residency.release(name)

    def check_integrity(self) -> None:
        """Nothing, if the books agree with what is held.

        Raises:
            EngineError: if they do not: a bug, never a user's mistake.
        """
        booked, held = set(self._residency), {*self._held, *self._loading}
        if booked != held:
            raise EngineError(f"books and memory must agree: {sorted(booked ^ held)} are in only one of them")
        if self.used_bytes > self._residency.capacity_bytes:
            raise EngineError(f"{self._residency.capacity_bytes} bytes may be held, {self.used_bytes} are booked")
        for name, weights in self._held.items():
            if weights.nbytes > self._sources[name].nbytes:
                raise EngineError(f"{name} holds {weights.nbytes} bytes, {self._sources[name].nbytes} were booked")
        if unheld := set(self._residency.leases) - set(self._held):
            raise EngineError(f"only held experts can be leased, got {sorted(unheld)}")

    def clear(self) -> None:
        """Forget all weights; loads that run are waited for, those that have not begun are cancelled."""
        for loading in self._loading.values():
            if not loading.future.cancel():
                loading.future.exception()
        self._loading.clear()
        self._held.clear()

    def _read(self, source: Source[P]) -> tuple[P, int]:
        return source.read(), self._clock_ns()

    def _end(self, name: str, loading: _Loading[P]) -> Loaded | LoadFailed:
        try:
            weights, ready_ns = loading.future.result()
            if weights.nbytes > self._sources[name].nbytes:
                raise StorageError(f"the files of {name} must not grow while the engine runs; start it again")
        except (MeswitchError, OSError) as error:
            self._residency.remove(name)
            named = error if isinstance(error, MeswitchError) else StorageError(f"{name} cannot be read: {error}")
            return LoadFailed(name, named)
        self._held[name] = weights
        self._switches += 1
        moved = self._sources[name].read_bytes
        self._moved_bytes += moved
        span = SwitchSpan(
            expert=name,
            source=Residency.DISK,
            decided_ns=loading.decided_ns,
            ready_ns=ready_ns,
            moved_bytes=moved,
            evicted=loading.evicted,
        )
        return Loaded(span)


def _check_pinned(sources: Mapping[str, Source[P]], pinned: Collection[str], capacity_bytes: int) -> None:
    """Nothing, if every expert fits beside those that are pinned: else its requests would wait for ever."""
    if unknown := sorted(set(pinned) - set(sources)):
        raise UnknownExpertError(f"a pinned expert must be one of {', '.join(sorted(sources))}, got {unknown[0]!r}")
    pinned_bytes = sum(sources[name].nbytes for name in set(pinned))
    others = {name: source.nbytes for name, source in sources.items() if name not in pinned}
    largest = max(others, key=others.__getitem__, default=None)
    needed = pinned_bytes + (others[largest] if largest is not None else 0)
    if pinned and needed > capacity_bytes:
        beside = f" and {largest}, the largest of the others, {others[largest]}" if largest is not None else ""
        raise CapacityError(
            f"pinned experts must leave room for any other: {', '.join(sorted(set(pinned)))} take {pinned_bytes} "
            f"bytes{beside}, {capacity_bytes} are left for experts; pin fewer or raise the memory budget"
        )
