"""How prompts begin and end, the same for every task: what a query is about stands in its middle."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from workloads.tasks.base import Problem

__all__ = ["GeneratedTask", "ask", "word", "words_of"]

OPENERS = ("What is", "Give", "Give me", "Find", "Write", "Show", "Show me", "Tell me", "Please give", "I need")

CONSONANTS = "bcdfghjklmnpqrstvwxyz"
VOWELS = "aeiou"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedTask:
    """A task whose problems are drawn by one function.

    Attributes:
        name, description, verifier: as in `Task`.
        draw: one random prompt with its answer.
    """

    name: str
    description: str
    verifier: str
    draw: Callable[[random.Random], tuple[str, str]]

    def sample(self, rng: random.Random) -> Problem:
        """One random problem, of either split."""
        prompt, answer = self.draw(rng)
        return Problem(task=self.name, prompt=prompt, answer=answer)


def ask(rng: random.Random, *phrases: str) -> str:
    """One of `phrases`, noun phrases that mean the same, put as a question or a request."""
    opener, phrase = rng.choice(OPENERS), rng.choice(phrases)
    end = "?" if opener == "What is" else rng.choice(("", "."))
    return f"{opener} {phrase}{end}"


def word(rng: random.Random, low: int, high: int) -> str:
    """A pronounceable invented word of `low` to `high` letters."""
    start = rng.randrange(2)
    size = rng.randint(low, high)
    return "".join(rng.choice(VOWELS if (start + i) % 2 else CONSONANTS) for i in range(size))


def words_of(text: str) -> tuple[str, ...]:
    """The words of `text`, which is easier to read and to edit than a list of strings."""
    return tuple(text.split())
