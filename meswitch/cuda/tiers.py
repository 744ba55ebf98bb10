"""Experts in slots of a device, fed from pinned host memory, fed from the disk.

    disk --fill, in a worker thread--> image in host memory --copy, segment by segment--> slot of the device

What a slot holds stays in host memory as long as there is room for it, so that nothing is ever copied back. An expert
becomes ready, and a row may be computed with it, before its last segment is in place: the computing stream waits for
each segment by itself. While rows run, it is ready only when those waits are short, since all rows would wait.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import torch

from meswitch.config import StoreConfig
from meswitch.core import Residency, SwitchSpan
from meswitch.cuda.copies import Copy, SegmentCopies
from meswitch.cuda.image import ImageSource
from meswitch.cuda.pinned import PinnedArena
from meswitch.errors import CapacityError, EngineError, StorageError, UnknownExpertError
from meswitch.policies import new_policy
from meswitch.residency import BoundedResidency
from meswitch.store import ExpertStore, Loaded, LoadFailed, Source

__all__ = ["Tiers"]

LOAD_POLL_S = 0.001
"""How often `preload` looks whether an image is there."""


@dataclass(frozen=True, slots=True)
class _HostImage:
    """One image in host memory."""

    memory: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the image."""
        return self.memory.numel()


@dataclass(slots=True, kw_only=True)
class _Held:
    """An expert that has a slot.

    Attributes:
        slot: which one.
        copy: into it.
        source: where the expert was when it was asked for.
        decided_ns: when that was.
        evicted: who had to go.
        ready: whether a row may be computed with it.
        settled: whether the copy is over, and the host's image free to go.
    """

    slot: int
    copy: Copy
    source: Residency
    decided_ns: int
    evicted: tuple[str, ...]
    ready: bool = False
    settled: bool = False


class Tiers:
    """The books of slots and host images, and all that moves between them. One thread owns it.

    Only `ImageSource.fill` runs elsewhere, and it makes no call to the device.

    Args:
        sources: of all experts; experts of one and the same source share its image in host memory.
        slots: on the device.
        segments: of an image.
        serving_segments: how many of them, from the first on, a row needs; those after them refine it.
        host: images in host memory, which are closed with this.
        copies: into the slots, closed with this.
        executor: fills images.
        config: who makes room on the device, and who never does; host memory makes room by the same policy.
        ready_share: how much of an image must be in place before a row joins others that run.
        clock_ns: monotonic.

    Attributes:
        eager: whether nothing runs that waits of a new row could hold up. Set before `poll`.

    Raises:
        CapacityError: there is no slot or no host image for an expert beside those that are pinned.
        UnknownExpertError: a pinned expert is none of `sources`.
    """

    def __init__(
        self,
        sources: Mapping[str, ImageSource],
        *,
        slots: int,
        segments: int,
        serving_segments: int,
        host: PinnedArena,
        copies: SegmentCopies,
        executor: Executor,
        config: StoreConfig,
        ready_share: float,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        _check_slots(sources, slots, config.pinned)
        self.eager = True
        self._sources = dict(sources)
        self._segments = segments
        self._serving_segments = serving_segments
        self._host = host
        self._copies = copies
        self._ready_share = ready_share
        self._clock_ns = clock_ns
        first: dict[int, str] = {}
        # an image goes by the name of the first expert that has it
        self._image_names = {name: first.setdefault(id(source), name) for name, source in sources.items()}
        self._store = ExpertStore(
            {name: self._host_source(sources[name]) for name in first.values()},
            capacity_bytes=host.nbytes,
            executor=executor,
            policy=new_policy(config.policy),
            on_evict=lambda image: host.give(image.memory),
            clock_ns=clock_ns,
        )
        self._residency = BoundedResidency(slots, new_policy(config.policy), pinned=config.pinned)
        self._held: dict[str, _Held] = {}
        self._free = list(reversed(range(slots)))
        # experts that were on the disk when they were asked for and have no slot yet, and when that was
        self._asked_ns: dict[str, int] = {}
        # the same of those in host memory that found no slot
        self._refused_ns: dict[str, int] = {}
        self._asked_again: set[str] = set()
        self._refused = False
        self._counts = dict.fromkeys(("switches", "evictions", "moved_bytes"), 0)
        self._copied = dict.fromkeys(("copies", "copied_bytes", "copy_us"), 0)
        # nobody may ever ask for those: they are brought until each has its slot
        self._to_pin = dict.fromkeys(config.pinned)

    @property
    def slots(self) -> int:
        """Experts that fit on the device."""
        return self._residency.capacity_bytes

    @property
    def resident(self) -> Collection[str]:
        """Experts that a row can be computed with, as `poll` found."""
        return [name for name, held in self._held.items() if held.ready]

    @property
    def loading(self) -> Collection[str]:
        """Experts on their way: those whose host image is being filled, and those whose copy is not far enough."""
        copying = [name for name, held in self._held.items() if not held.ready]
        return copying + [name for name in self._asked_ns if self._image_names[name] in self._store.loading]

    @property
    def counters(self) -> Mapping[str, int]:
        """`switches`, `evictions`, `moved_bytes` of the device since start; what was read for a switch counts too."""
        return dict(self._counts)

    @property
    def tier_counters(self) -> Mapping[str, int]:
        """What moved since start, and how large the host's tier is.

        `host_loads`, `host_load_bytes`, `host_evictions`: images filled, and bytes read for them. `copies`,
        `copied_bytes`, `copy_us`: complete copies, and microseconds that those took on the device, 0 where they are
        not timed. `host_images`, `host_bytes`. `shared_images`: 1 where several experts share an image.
        """
        store = self._store.counters
        return {
            "host_loads": store["switches"],
            "host_load_bytes": store["moved_bytes"],
            "host_evictions": store["evictions"],
            **self._copied,
            "host_images": len(self._host.images),
            "host_bytes": self._host.nbytes,
            "shared_images": int(len(self._store.names) < len(self._sources)),
        }

    def request(self, expert: str, *, keep: Collection[str] = ()) -> bool:
        """Whether `expert` has a slot or is on its way into host memory; `False` if there is no room for that now.

        An expert that has come from the disk gets its slot when it is asked for once more: who makes room for it is
        decided when it is needed.

        Args:
            expert: one of the sources.
            keep: experts that must not make room.
        """
        if expert in self._held:
            return True
        name = self._image_names[expert]
        self._asked_again.add(expert)
        if name in self._store.resident:
            done = self._place(expert, keep)
            if not done:
                self._refused_ns.setdefault(expert, self._clock_ns())
        else:
            asked_ns, kept = self._clock_ns(), {self._image_names[x] for x in keep if x in self._image_names}
            done = self._store.request(name, keep=kept)
            if done:
                self._asked_ns.setdefault(expert, asked_ns)
        self._refused |= not done
        return done

    def poll(self) -> list[Loaded | LoadFailed]:
        """What became ready since the last call, and what cannot be read."""
        self._forget_unwanted()
        ended: list[Loaded | LoadFailed] = []
        for outcome in self._store.poll():
            if isinstance(outcome, LoadFailed):
                ended += [LoadFailed(expert, outcome.error) for expert in self._give_up(outcome.expert)]
        self._pin()
        ended += self._become_ready()
        return ended

    def hold(self, expert: str) -> tuple[int, Callable[[int], None], Callable[[], bool]]:
        """The slot of an expert in `resident`, which stays until `release`.

        And how to wait for a segment of it, and to ask whether all are in place, as `poll` found.
        """
        held = self._held[expert]
        if not held.ready:
            raise ValueError(f"only a resident expert can be leased, {expert!r} is on its way")
        self._residency.lease(expert)
        return held.slot, held.copy.wait, lambda: held.settled

    def release(self, expert: str) -> None:
        """Give back one lease; the slot may be overwritten after what the current stream was given so far."""
        self._residency.release(expert)
        if expert not in self._residency.leases:
            self._copies.mark_used(self._held[expert].slot)

    def preload(self) -> list[LoadFailed]:
        """Fill host memory with as many experts as it has images, in their order; those that cannot be read."""
        failed: list[LoadFailed] = []
        for name in self._store.names:
            if self._host.nbytes - self._store.used_bytes >= self._host.image_bytes:
                self._store.request(name)
        while self._store.loading:
            failed += [ended for ended in self._store.poll() if isinstance(ended, LoadFailed)]
            time.sleep(LOAD_POLL_S)
        for ended in failed:
            self._give_up(ended.expert)
        return failed

    def check_integrity(self) -> None:
        """Nothing, if the books agree with what is held.

        Raises:
            EngineError: if they do not: a bug, never a user's mistake.
        """
        self._store.check_integrity()
        if set(self._residency) != self._held.keys():
            raise EngineError(f"books and slots must agree: {sorted(set(self._residency) ^ self._held.keys())}")
        used = sorted([*self._free, *(held.slot for held in self._held.values())])
        if used != list(range(self.slots)):
            raise EngineError(f"each slot must be free or of one expert, got {used} of {self.slots}")
        early = [name for name in self._residency.leases if not self._held[name].ready]
        if early:
            raise EngineError(f"only resident experts can be leased, got {early}")
        images = self._host.free + len({*self._store.resident, *self._store.loading})
        if not self._store.loading and images != len(self._host.images):
            raise EngineError(f"each host image must be free or of one expert, got {images}")

    def close(self) -> None:
        """Forget everything; copies and loads that run are waited for. Idempotent."""
        self._copies.close()
        self._store.clear()
        self._host.close()

    def _host_source(self, source: ImageSource) -> Source[_HostImage]:
        return Source(nbytes=source.nbytes, read_bytes=source.read_bytes, read=partial(self._fill, source))

    def _fill(self, source: ImageSource) -> _HostImage:
        # the store has booked an image for it, so there is a free one
        memory = self._host.take()
        try:
            source.fill(memory)
        except BaseException as cause:
            self._host.give(memory)
            # how torch and Python say that there is no memory, or no thread, left: others may still be served
            if isinstance(cause, MemoryError | RuntimeError):
                raise StorageError(f"an expert cannot be read: {cause}") from cause
            raise
        return _HostImage(memory)

    def _place(self, expert: str, keep: Collection[str]) -> bool:
        """Whether there was a slot for `expert`, whose image is in host memory: its copy has started then."""
        kept = {*keep, *(name for name, held in self._held.items() if not held.settled)}
        evicted = self._residency.reserve(expert, 1, cost_bytes=1, keep=kept)
        if evicted is None:
            return False
        self._free += [self._held.pop(victim).slot for victim in evicted]
        self._counts["evictions"] += len(evicted)
        slot, name = self._free.pop(), self._image_names[expert]
        try:
            # the image stays while it is copied
            copy = self._copies.start(slot, self._store.lease(name).memory)
        except BaseException:
            self._store.release(name)
            self._residency.remove(expert)
            self._free.append(slot)
            raise
        asked_ns = self._asked_ns.pop(expert, None)
        refused_ns = self._refused_ns.pop(expert, self._clock_ns())
        self._held[expert] = _Held(
            slot=slot,
            copy=copy,
            source=Residency.HOST if asked_ns is None else Residency.DISK,
            decided_ns=refused_ns if asked_ns is None else asked_ns,
            evicted=evicted,
        )
        return True

    def _become_ready(self) -> list[Loaded]:
        """The experts whose copies are far enough now; copies that are over give their images back."""
        loaded, first = [], True
        for expert, held in self._held.items():
            if held.settled:
                continue
            done = held.copy.done_segments()
            # of those that are queued, only the copy that runs will let a row go on
            started = self.eager and (done > 0 or first)
            if not held.ready and (started or done >= self._ready_share * self._serving_segments):
                held.ready = True
                loaded.append(self._loaded(expert, held))
            if done == self._segments:
                self._settle(expert, held)
            else:
                first = False
        return loaded

    def _complete(self, slot: int) -> None:
        """All segments of a slot are in place."""

    def _settle(self, expert: str, held: _Held) -> None:
        self._complete(held.slot)
        held.settled = True
        self._store.release(self._image_names[expert])
        self._copied["copies"] += 1
        self._copied["copied_bytes"] += self._host.image_bytes
        self._copied["copy_us"] += round(1000 * (held.copy.elapsed_ms or 0.0))

    def _loaded(self, expert: str, held: _Held) -> Loaded:
        source = self._sources[expert]
        moved = source.nbytes + (source.read_bytes if held.source is Residency.DISK else 0)
        self._counts["switches"] += 1
        self._counts["moved_bytes"] += moved
        return Loaded(
            SwitchSpan(
                expert=expert,
                source=held.source,
                decided_ns=held.decided_ns,
                ready_ns=self._clock_ns(),
                moved_bytes=moved,
                evicted=held.evicted,
            )
        )

    def _give_up(self, name: str) -> list[str]:
        """The experts that were asked for and share the image `name`; they are not waited for any more."""
        sharing = [expert for expert, image in self._image_names.items() if image == name]
        for expert in sharing:
            self._to_pin.pop(expert, None)
        return [expert for expert in sharing if self._asked_ns.pop(expert, None) is not None]

    def _pin(self) -> None:
        """Ask for the pinned experts that have no slot, as far as there is room in host memory."""
        for expert in [*self._to_pin]:
            if expert in self._held:
                del self._to_pin[expert]
            elif self._image_names[expert] not in self._store.loading:
                self.request(expert)

    def _forget_unwanted(self) -> None:
        """Forget when an expert was asked for that came from the disk since, and that nobody asked for again."""
        # where one finds no room, those behind it are not asked for, though they are wanted
        if not self._refused:
            for expert in self._asked_ns.keys() - self._asked_again:
                if self._image_names[expert] not in self._store.loading:
                    del self._asked_ns[expert]
            for expert in self._refused_ns.keys() - self._asked_again:
                del self._refused_ns[expert]
        self._asked_again.clear()
        self._refused = False


def _check_slots(sources: Mapping[str, ImageSource], slots: int, pinned: Sequence[str]) -> None:
    if unknown := sorted(set(pinned) - sources.keys()):
        raise UnknownExpertError(f"a pinned expert must be one of {', '.join(sorted(sources))}, got {unknown[0]!r}")
    needed = len(set(pinned)) + bool(sources.keys() - set(pinned))
    if slots < needed:
        raise CapacityError(
            f"the device must have a slot for each pinned expert and one for the others, {needed}, got {slots}; "
            "pin fewer or raise the memory budget"
        )
