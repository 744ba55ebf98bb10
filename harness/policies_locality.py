"""How much locality a sequence of experts has: what any policy could make of it.

SRP and SCH are those of "Not All Models Suit Expert Offloading" (arXiv 2505.16056), defined there for the experts
inside a mixture-of-experts model, and adapted to whole experts: a token becomes a request, the experts that a token
activates become the one expert that the request wants, and a cache of rho x active experts becomes rho slots.
"""

import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

from harness.policies import ReplayConfig, replay_with

__all__ = ["LeastUsedAheadPolicy", "sch", "srp", "working_set"]


class LeastUsedAheadPolicy:
    """Evicts the expert that the fewest of the next `window` requests want. Needs the future, as Belady's does.

    Args:
        requests: the experts that will be used, in order.
        window: requests to look ahead, after the present one.
    """

    def __init__(self, requests: Sequence[str], window: int) -> None:
        self._window = window
        self._places: dict[str, list[int]] = {}
        for place, name in enumerate(requests):
            self._places.setdefault(name, []).append(place)
        self._now = 0

    def hold(self, name: str, *, nbytes: int, cost_bytes: int) -> None:
        """Nothing to learn."""

    def use(self, name: str) -> None:
        """Go one request on."""
        self._now += 1

    def drop(self, name: str) -> None:
        """Nothing to forget."""

    def worth(self, name: str) -> float:
        """Requests for it among the next."""
        places = self._places[name]
        return float(bisect_right(places, self._now + self._window) - bisect_right(places, self._now))


def working_set(requests: Sequence[str], window: int) -> float | None:
    """Different experts in `window` consecutive requests, the mean over all places; `None` if there are fewer.

    As a function of the window it is Denning's working-set curve (CACM 11(5), 1968), counted in requests.
    """
    counts = _window_counts(requests, window)
    return statistics.fmean(len(inside) for inside in counts) if counts else None


def srp(requests: Sequence[str], window: int) -> float | None:
    """Segment routing best performance: the best F1 of one fixed set of experts for each window; `None` if none fits.

    All experts of a window's set are predicted for each of its requests, which wants one. Over all windows of that many
    consecutive requests together, F1 = 2 hits / (predictions + requests), with the best sets: an expert belongs to its
    window's set where its share of the window is above a threshold, the same for all, that makes F1 largest. 1 means
    that in each window one expert answers all; with `window` different ones each time it is 2 / (window + 1) at least.
    """
    counts = _window_counts(requests, window)
    if not counts:
        return None
    pairs = Counter(count for inside in counts for count in inside.values())
    wanted = len(counts) * window
    best, hits, predictions = 0.0, 0, 0
    # adding pairs in descending order of their share, the best prefix is the best set of all
    for count in sorted(pairs, reverse=True):
        hits += count * pairs[count]
        predictions += window * pairs[count]
        best = max(best, 2 * hits / (predictions + wanted))
    return best


def sch(requests: Sequence[str], window: int, slots: int) -> float:
    """Segment cache best hit rate: of `slots` slots that evict the expert least used in the next `window` requests."""
    return replay_with(requests, LeastUsedAheadPolicy(requests, window), ReplayConfig(slots=slots)).hit_rate


def _window_counts(requests: Sequence[str], window: int) -> list[dict[str, int]]:
    """Requests by expert of every window of `window` consecutive requests."""
    inside: Counter[str] = Counter()
    found = []
    for place, name in enumerate(requests):
        inside[name] += 1
        if place >= window:
            inside[requests[place - window]] -= 1
        if place >= window - 1:
            inside = +inside
            found.append(dict(inside))
    return found
