"""The router that does as it is told."""

import difflib
from collections.abc import Collection, Sequence

from meswitch.core import AUTO
from meswitch.errors import UnknownExpertError
from meswitch.router.base import Query, Route

__all__ = ["TagRouter"]


class TagRouter:
    """Takes the expert that a request names, whatever its letters' case."""

    nbytes = 0
    kv_bytes = 0

    def __init__(self, experts: Collection[str]) -> None:
        self._experts = {name.casefold(): name for name in experts}

    def resolve(self, tag: str) -> str:
        """The expert's name as it is registered.

        Raises:
            UnknownExpertError: if there is none.
        """
        name = self._experts.get(tag.casefold())
        if name is not None:
            return name
        if tag == AUTO:
            raise UnknownExpertError("this engine has no router, so a request must name its expert, got auto")
        close = difflib.get_close_matches(tag.casefold(), self._experts, n=1)
        hint = f" (did you mean {self._experts[close[0]]}?)" if close else ""
        known = ", ".join(sorted(self._experts.values()))
        raise UnknownExpertError(f"no expert is called {tag!r}{hint}; there are {known}")

    def route(self, queries: Sequence[Query]) -> Sequence[Route]:
        """The tags' experts.

        Raises:
            UnknownExpertError: if a tag names none.
        """
        return [Route(expert=self.resolve(query.tag), confidence=None) for query in queries]
