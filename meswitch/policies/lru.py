"""Least recently used: no preference of its own, because recency already decides between equals."""

__all__ = ["LruPolicy"]


class LruPolicy:
    """Evicts what was used longest ago."""

    def hold(self, name: str, *, nbytes: int, cost_bytes: int) -> None:
        """Nothing to learn."""

    def use(self, name: str) -> None:
        """Nothing to learn."""

    def drop(self, name: str) -> None:
        """Nothing to forget."""

    def worth(self, name: str) -> float:
        """The same for all names."""
        return 0.0
