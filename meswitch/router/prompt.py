"""The question a router model is asked: lettered domains first, the query last.

The options do not depend on the query, so a server may keep their keys and values and compute the query alone. The
model's answer is one letter: the next token after the prompt, as the tokenizer closes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LETTERS", "MAX_DOMAINS", "NONE_LETTER", "RouterPrompt", "router_prompt"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYabcdefghijklmnopqrstuvwxyz"
"""Single bytes, in the order in which domains are lettered."""

NONE_LETTER = "Z"
"""The answer "none of these": the query belongs to no listed domain."""

MAX_DOMAINS = len(LETTERS)

NONE_LINE = f"{NONE_LETTER} none of these\n"

QUERY_MARK = "? "
"""Starts the query; no description can imitate it, because it follows a line end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterPrompt:
    """One routing question.

    Attributes:
        options: the lettered domains and the "none of these" line, up to the place where the query begins.
        query: the user's query, on one line.
        experts: the expert that each letter stands for, in the order of the letters; `None` for "none of these".
    """

    options: str
    query: str
    experts: Mapping[str, str | None]

    @property
    def text(self) -> str:
        """The whole prompt, to be tokenised with the special tokens that the tokenizer adds by itself."""
        return self.options + self.query


def router_prompt(domains: Mapping[str, str], query: str) -> RouterPrompt:
    """The question which of `domains` (expert name to description, in the order to be lettered) `query` belongs to.

    Line ends in descriptions and query become spaces, so that neither can forge an option.

    Raises:
        ValueError: if there are no domains, or more than there are letters.
    """
    if not 1 <= len(domains) <= MAX_DOMAINS:
        raise ValueError(f"a router prompt takes 1 to {MAX_DOMAINS} domains, got {len(domains)}")
    lettered = list(zip(LETTERS, domains.items(), strict=False))
    lines = [f"{letter} {' '.join(text.split())}\n" for letter, (_, text) in lettered]
    experts: dict[str, str | None] = {letter: name for letter, (name, _) in lettered}
    return RouterPrompt(
        options="".join(lines) + NONE_LINE + QUERY_MARK,
        query=" ".join(query.split()),
        experts={**experts, NONE_LETTER: None},
    )
