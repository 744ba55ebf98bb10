"""Cost-aware: what moving an expert again costs, times how often it is used, for each byte of memory it takes.

Greedy-Dual-Size-Frequency (L. Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
Policy", HPL-98-69R1, 1998), with bytes moved as the cost:

    H(e) = L + F(e) * moved_bytes(e) / held_bytes(e)

F counts the requests since `e` was loaded, and L, which starts at 0, becomes H of whatever is evicted. So every
eviction ages the names that stay: popularity of long ago wears off. With experts of one size it is LFU that ages.
"""

from dataclasses import dataclass

__all__ = ["GreedyDualPolicy"]


@dataclass(slots=True)
class _Held:
    cost_per_byte: float
    worth: float
    uses: int = 0


class GreedyDualPolicy:
    """Evicts the name of the least H."""

    def __init__(self) -> None:
        self._age = 0.0
        self._held: dict[str, _Held] = {}

    def hold(self, name: str, *, nbytes: int, cost_bytes: int) -> None:
        """Start at the present age; what takes no room costs nothing to keep."""
        cost_per_byte = cost_bytes / nbytes if nbytes else float("inf")
        self._held[name] = _Held(cost_per_byte, self._age)

    def use(self, name: str) -> None:
        """One more use, valued at the present age."""
        held = self._held[name]
        held.uses += 1
        held.worth = self._age + held.uses * held.cost_per_byte

    def drop(self, name: str) -> None:
        """Age all others to what the dropped name was worth."""
        self._age = max(self._age, self._held.pop(name).worth)

    def worth(self, name: str) -> float:
        """H of the name."""
        return self._held[name].worth
