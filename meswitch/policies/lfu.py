"""Least frequently used, counted over all requests so far, those of names that are not in memory included."""

from collections import Counter

__all__ = ["LfuPolicy"]


class LfuPolicy:
    """Evicts what the fewest requests used since the start ("perfect" LFU: an eviction does not reset the count).

    It never forgets: a name that was popular long ago stays longer than it should.
    """

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()

    def hold(self, name: str, *, nbytes: int, cost_bytes: int) -> None:
        """Nothing to learn: being loaded is not being used."""

    def use(self, name: str) -> None:
        """Count one more request."""
        self._uses[name] += 1

    def drop(self, name: str) -> None:
        """Nothing to forget."""

    def worth(self, name: str) -> float:
        """Requests so far."""
        return float(self._uses[name])
