"""Which of many named things stay in a bounded memory: pure bookkeeping of bytes, leases and pins.

Bytes are reserved before a thing is read, so that memory never holds more than its capacity, not even while loading.
Who makes room is a policy's choice; among equals, it is the least recently used.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from meswitch.policies import EvictionPolicy, LruPolicy

__all__ = ["BoundedResidency"]


class BoundedResidency:
    """Names and bytes of what is held, the least recently used first.

    A leased or pinned name is never a victim. Nothing here reads a clock: "recent" is the order of `touch` and
    `reserve`.

    Args:
        capacity_bytes: of all names together.
        policy: chooses the victims; least recently used if absent. It belongs to this residency alone.
        pinned: names that stay once they are held.
    """

    def __init__(
        self, capacity_bytes: int, policy: EvictionPolicy | None = None, *, pinned: Collection[str] = ()
    ) -> None:
        if capacity_bytes < 0:
            raise ValueError(f"capacity_bytes must be at least 0, got {capacity_bytes}")
        self.capacity_bytes = capacity_bytes
        self.pinned = frozenset(pinned)
        self._policy = policy if policy is not None else LruPolicy()
        self._bytes: dict[str, int] = {}
        self._leases: Counter[str] = Counter()

    def __contains__(self, name: str) -> bool:
        return name in self._bytes

    def __iter__(self) -> Iterator[str]:
        return iter(self._bytes)

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes reserved by all names together."""
        return sum(self._bytes.values())

    @property
    def leases(self) -> Mapping[str, int]:
        """How many leases each leased name has."""
        return dict(self._leases)

    def victims(self, nbytes: int, *, keep: Collection[str] = ()) -> tuple[str, ...] | None:
        """Names that must go to make room for `nbytes`, the first to go first; `None` if no choice makes enough room.

        Args:
            nbytes: bytes wanted.
            keep: names that must stay although nobody leases or pinned them.
        """
        missing = self.used_bytes + nbytes - self.capacity_bytes
        if missing <= 0:
            return ()
        evictable = [n for n in self._bytes if not self._leases[n] and n not in self.pinned and n not in keep]
        chosen: list[str] = []
        # the sort is stable, and the books are in order of use
        for name in sorted(evictable, key=self._policy.worth):
            chosen.append(name)
            missing -= self._bytes[name]
            if missing <= 0:
                return tuple(chosen)
        return None

    def reserve(
        self, name: str, nbytes: int, *, cost_bytes: int | None = None, keep: Collection[str] = ()
    ) -> tuple[str, ...] | None:
        """The names evicted to hold `name`, which is the most recent one from now on; `None` if it cannot fit.

        Args:
            name: not held yet.
            nbytes: room it takes.
            cost_bytes: what bringing it again would move; `nbytes` if absent.
            keep: as in `victims`.
        """
        if name in self._bytes:
            raise ValueError(f"a name is reserved once, got {name!r} again")
        victims = self.victims(nbytes, keep=keep)
        if victims is not None:
            for victim in victims:
                self.remove(victim)
            self._bytes[name] = nbytes
            self._policy.hold(name, nbytes=nbytes, cost_bytes=nbytes if cost_bytes is None else cost_bytes)
        return victims

    def remove(self, name: str) -> None:
        """Free the bytes of `name`, pinned or not.

        Raises:
            ValueError: if it is leased.
        """
        if self._leases[name]:
            raise ValueError(f"a leased name must not be removed, {name!r} has {self._leases[name]} leases")
        del self._bytes[name]
        self._policy.drop(name)

    def touch(self, name: str) -> None:
        """Use `name` once: it is the most recently used now."""
        self._bytes[name] = self._bytes.pop(name)
        self._policy.use(name)

    def lease(self, name: str) -> None:
        """Use `name` and protect it from eviction until `release` has been called as often as `lease`."""
        self.touch(name)
        self._leases[name] += 1

    def release(self, name: str) -> None:
        """Give back one lease of `name`."""
        if not self._leases[name]:
            raise ValueError(f"only a leased name can be released, got {name!r}")
        self._leases[name] -= 1
        if not self._leases[name]:
            del self._leases[name]
