"""One kind of decode step: how many rows, of how many experts, with how much context."""

import re
from dataclasses import dataclass

from harness.errors import UsageError

__all__ = ["DEFAULT_CASES", "DecodeCase", "parse_cases"]

DEFAULT_CASES = "16x16,1x1,16x1,16x0,1x0,4x4,16x4"
"""Every row its own expert; all rows of one; the base alone; and groups of rows."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DecodeCase:
    """One kind of step.

    Attributes:
        B: rows.
        E: experts, to which the rows belong in turn; 0 for the base alone, without any slot.
        context: positions that each row's attention reads, on average over the measured steps.
    """

    B: int
    E: int
    context: int

    @property
    def slots(self) -> tuple[int, ...]:
        """The expert of each row, -1 for the base."""
        return tuple(row % self.E if self.E else -1 for row in range(self.B))

    @property
    def base_only(self) -> "DecodeCase":
        """The same rows, all of the base."""
        return DecodeCase(B=self.B, E=0, context=self.context)


def parse_cases(text: str, *, context: int) -> tuple[DecodeCase, ...]:
    """The cases of `16x16,1x1`: rows x experts each, and for each number of rows the base alone, which it adds.

    Raises:
        UsageError: a case is not of that form, or has more experts than rows.
    """
    if context < 1:
        raise UsageError(f"--context must be at least 1, got {context}")
    cases: dict[DecodeCase, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)x(\d+)\s*", part)
        B, E = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 <= E <= B or B < 1:
            raise UsageError(
                f"--cases must be rows x experts such as 16x4, with no more experts than rows, got {part!r}"
            )
        cases[DecodeCase(B=B, E=E, context=context)] = None
    for case in tuple(cases):
        cases[case.base_only] = None
    return tuple(cases)
