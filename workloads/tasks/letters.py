"""Random strings of letters, turned round or shifted along the alphabet."""

import random
import string

from workloads.tasks.wording import GeneratedTask, ask

__all__ = ["CIPHER", "REVERSE"]


def letters(rng: random.Random, low: int, high: int) -> str:
    """A string of `low` to `high` random small letters."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(low, high)))


def draw_reverse(rng: random.Random) -> tuple[str, str]:
    """A string of 4 to 9 letters, and the same from back to front."""
    text = letters(rng, 4, 9)
    phrases = (f"{text} backwards", f"the letters of {text} in reverse", f"the word {text} from back to front")
    return ask(rng, *phrases), text[::-1]


def draw_cipher(rng: random.Random) -> tuple[str, str]:
    """A string of 4 to 7 letters, each moved along the alphabet by 1 to 9 places, z followed by a."""
    text, shift = letters(rng, 4, 7), rng.randint(1, 9)
    moved = "".join(chr((ord(c) - 97 + shift) % 26 + 97) for c in text)
    phrases = (
        f"{text} with each letter moved by {shift}",
        f"the word {text} in the shift {shift} cipher",
        f"the cipher of {text} with key {shift}",
    )
    return ask(rng, *phrases), moved


CIPHER = GeneratedTask(name="cipher", description="letter shift cipher", verifier="exact", draw=draw_cipher)

REVERSE = GeneratedTask(name="reverse", description="reversed words", verifier="exact", draw=draw_reverse)
