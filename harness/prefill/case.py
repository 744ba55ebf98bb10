"""One kind of prompt: how long, behind how many tokens, whose, and how its kernels are launched."""

from dataclasses import dataclass, replace
from typing import Literal

from harness.errors import UsageError

__all__ = ["DEFAULT_TOKENS", "PrefillCase", "parse_cases"]

DEFAULT_TOKENS = "16,128,512"
"""A question, one with its context, and a chunk of the engine's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCase:
    """One kind of prompt.

    Attributes:
        tokens: that are computed.
        start: position of the first of them; what is before it is in the cache.
        launches: what lies between two attentions as one CUDA graph, or every kernel by itself.
        has_expert: whether an expert's delta is added; else the base computes alone.
    """

    tokens: int
    start: int
    launches: Literal["graphs", "single"]
    has_expert: bool

    @property
    def base_only(self) -> "PrefillCase":
        """The same prompt, of the base."""
        return replace(self, has_expert=False)


def parse_cases(text: str, *, start: int, has_single: bool) -> tuple[PrefillCase, ...]:
    """The cases of the lengths `16,512`, each with an expert and with the base alone.

    Args:
        text: the lengths.
        start: position of each prompt's first token.
        has_single: whether each is launched kernel by kernel, too.

    Raises:
        UsageError: a length is none, or `start` is negative.
    """
    if start < 0:
        raise UsageError(f"--start must be at least 0, got {start}")
    lengths: dict[int, None] = {}
    for part in text.split(","):
        word = part.strip()
        if not (word.isdecimal() and int(word) > 0):
            raise UsageError(f"--tokens must be lengths from 1 on such as 16,512, got {part!r}")
        lengths[int(word)] = None
    ways: tuple[Literal["graphs", "single"], ...] = ("graphs", "single") if has_single else ("graphs",)
    return tuple(
        PrefillCase(tokens=tokens, start=start, launches=launches, has_expert=has_expert)
        for tokens in lengths
        for launches in ways
        for has_expert in (True, False)
    )
