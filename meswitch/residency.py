"""Which of many named things stay in a bounded memory: pure least-recently-used bookkeeping with leases.

Bytes are reserved before a thing is read, so that memory never holds more than its capacity, not even while loading.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

__all__ = ["LruResidency"]


class LruResidency:
    """Names and bytes of what is held, the least recently used first.

    A leased name is never a victim. Nothing here reads a clock: "recent" is the order of `touch` and `reserve`.
    """

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise ValueError(f"capacity_bytes must be at least 0, got {capacity_bytes}")
        self.capacity_bytes = capacity_bytes
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
        """Names that must go to make room for `nbytes`, oldest first; `None` if no choice makes enough room.

        Args:
            nbytes: bytes wanted.
            keep: names that must stay although nobody leases them.
        """
        missing = self.used_bytes + nbytes - self.capacity_bytes
        chosen: list[str] = []
        for name, held in self._bytes.items():
            if missing <= 0:
                break
            if not self._leases[name] and name not in keep:
                chosen.append(name)
                missing -= held
        return tuple(chosen) if missing <= 0 else None

    def reserve(self, name: str, nbytes: int, *, keep: Collection[str] = ()) -> tuple[str, ...] | None:
        """The names evicted to hold `name`, which is the most recent one from now on; `None` if it cannot fit."""
        if name in self._bytes:
            raise ValueError(f"a name is reserved once, got {name!r} again")
        victims = self.victims(nbytes, keep=keep)
        if victims is not None:
            for victim in victims:
                self.remove(victim)
            self._bytes[name] = nbytes
        return victims

    def remove(self, name: str) -> None:
        """Free the bytes of `name`.

        Raises:
            ValueError: if it is leased.
        """
        if self._leases[name]:
            raise ValueError(f"a leased name must not be removed, {name!r} has {self._leases[name]} leases")
        del self._bytes[name]

    def touch(self, name: str) -> None:
        """Make `name` the most recently used."""
        self._bytes[name] = self._bytes.pop(name)

    def lease(self, name: str) -> None:
        """Protect `name` from eviction until `release` has been called as often as `lease`."""
        self.touch(name)
        self._leases[name] += 1

    def release(self, name: str) -> None:
        """Give back one lease of `name`."""
        if not self._leases[name]:
            raise ValueError(f"only a leased name can be released, got {name!r}")
        self._leases[name] -= 1
        if not self._leases[name]:
            del self._leases[name]
