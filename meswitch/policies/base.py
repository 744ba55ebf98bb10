"""What an eviction policy is: a preference among the names in memory, learnt from how they were used so far."""

from typing import Protocol

__all__ = ["EvictionPolicy"]


class EvictionPolicy(Protocol):
    """Says which name is missed least. Reads no clock: time is the order of the calls.

    The residency that asks it keeps bytes, leases and pins; a policy never sees those.
    """

    def hold(self, name: str, *, nbytes: int, cost_bytes: int) -> None:
        """`name` has room from now on: it takes `nbytes`, and bringing it again would move `cost_bytes`."""

    def use(self, name: str) -> None:
        """One more request uses `name`."""

    def drop(self, name: str) -> None:
        """`name` has no room any more."""

    def worth(self, name: str) -> float:
        """How much the held `name` is worth keeping: the least goes first; of equals, the least recently used."""
