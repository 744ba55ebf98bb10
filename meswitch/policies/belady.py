"""Belady's optimum: evict what is wanted again last. It needs the future: a bound, and not a policy to serve by.

L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966. No
policy that loads on demand has more hits, as long as all names take the same room.
"""

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["BeladyPolicy"]


class BeladyPolicy:
    """Evicts the name whose next request is farthest away.

    Args:
        requests: the names that will be used, in order.
    """

    def __init__(self, requests: Sequence[str]) -> None:
        self._requests = requests
        self._places: dict[str, list[int]] = {}
        for place, name in enumerate(requests):
            self._places.setdefault(name, []).append(place)
        self._next = 0

    def hold(self, name: str, *, nbytes: int, cost_bytes: int) -> None:
        """Nothing to learn."""

    def use(self, name: str) -> None:
        """Go one request on.

        Raises:
            ValueError: if another name was announced.
        """
        announced = self._requests[self._next] if self._next < len(self._requests) else "the end"
        if name != announced:
            raise ValueError(f"request {self._next} was announced as {announced}, got {name}")
        self._next += 1

    def drop(self, name: str) -> None:
        """Nothing to forget."""

    def worth(self, name: str) -> float:
        """Minus the place of its next request; minus infinity if there is none."""
        places = self._places.get(name, [])
        following = bisect_left(places, self._next)
        return -float(places[following]) if following < len(places) else float("-inf")
