"""Numbers in words, written in digits."""

import random

from workloads.tasks.wording import GeneratedTask, ask, words_of

__all__ = ["NUMERALS"]

SMALL = words_of(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)

TENS = words_of("twenty thirty forty fifty sixty seventy eighty ninety")


def in_words(n: int) -> str:
    """The English words of `n`, from 0 to 999,999."""
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{SMALL[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    head, rest = divmod(n, size)
    return f"{in_words(head)} {name}" + (f" {in_words(rest)}" if rest else "")


def draw(rng: random.Random) -> tuple[str, str]:
    """A number of three to six digits."""
    n = rng.randint(10 ** rng.randint(2, 5), 999_999)
    words = in_words(n)
    return ask(rng, f"{words} in digits", f"the digits of {words}", f"the number {words} with digits"), str(n)


NUMERALS = GeneratedTask(name="numerals", description="number words to digits", verifier="integer", draw=draw)
