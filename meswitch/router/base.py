"""What every router is: queries in, experts with a confidence out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Query", "Route", "Router"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query as a router sees it.

    Attributes:
        text: what the user asks.
        tag: the expert that the request names, or `AUTO`.
    """

    text: str
    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The chosen expert; `confidence` is between 0 and 1, `None` if the choice was not the router's."""

    expert: str
    confidence: float | None


class Router(Protocol):
    """Chooses an expert for each query."""

    @property
    def nbytes(self) -> int:
        """Bytes of the router's weights."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that it keeps between calls."""

    def route(self, queries: Sequence[Query]) -> Sequence[Route]:
        """One route for each query, in order. A route does not depend on the other queries."""
