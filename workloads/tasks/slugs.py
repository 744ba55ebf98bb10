"""A title as a web address would spell it."""

import random

from workloads.tasks.wording import GeneratedTask, ask, word

__all__ = ["SLUGS"]


def draw(rng: random.Random) -> tuple[str, str]:
    """A title of two to four invented words in mixed case, and its slug: small letters joined by hyphens."""
    words = [word(rng, 2, 7) for _ in range(rng.randint(2, 4))]
    title = " ".join(w.capitalize() if rng.random() < 0.7 else w for w in words)
    phrases = (f"the slug of {title}", f"a slug for the title {title}", f"{title} as a slug")
    return ask(rng, *phrases), "-".join(words)


SLUGS = GeneratedTask(name="slugs", description="slugs of titles", verifier="exact", draw=draw)
