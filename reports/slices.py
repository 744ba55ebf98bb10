"""The rows of a sweep by what they have in common beside arm and experts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.sweep.rows import SweepRow
from harness.units import format_bytes

__all__ = ["Slice", "slices_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The rows of one budget, policy, popularity and load: what one figure shows."""

    budget_bytes: int
    policy: str
    popularity: str
    load: str
    rows: tuple[SweepRow, ...]

    @property
    def title(self) -> str:
        """What the rows have in common."""
        return f"{self.popularity}, {self.load}, {self.policy}, {format_bytes(self.budget_bytes)}"

    @property
    def name(self) -> str:
        """The title as a part of a file's name."""
        return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in self.title).replace("--", "-")


def slices_of(rows: Sequence[SweepRow]) -> Iterator[Slice]:
    """The rows of each budget, policy, popularity and load, the largest budget first."""
    groups: dict[tuple[int, str, str, int, float], list[SweepRow]] = {}
    for row in rows:
        load = row.in_flight or 0, row.rate_per_s or 0.0
        groups.setdefault((-row.memory_budget_bytes, row.policy, row.popularity, *load), []).append(row)
    for (budget, policy, popularity, *_), part in sorted(groups.items()):
        yield Slice(
            budget_bytes=-budget,
            policy=policy,
            popularity=popularity,
            load=load_words(part[0]),
            rows=tuple(part),
        )


def load_words(row: SweepRow) -> str:
    """The load of a row in words."""
    return f"{row.in_flight} in flight" if row.in_flight is not None else f"{row.rate_per_s:g} requests/s"
