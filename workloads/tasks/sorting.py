"""A few two-digit numbers in order."""

import random

from workloads.tasks.wording import GeneratedTask, ask

__all__ = ["SORTING"]


def draw(rng: random.Random) -> tuple[str, str]:
    """Four or five different numbers in ascending order."""
    numbers = rng.sample(range(10, 100), rng.randint(4, 5))
    text = " ".join(map(str, numbers))
    phrases = (f"{text} in order", f"the list {text} from small to large", f"the numbers {text} sorted")
    return ask(rng, *phrases), " ".join(map(str, sorted(numbers)))


SORTING = GeneratedTask(name="sorting", description="numbers in order", verifier="exact", draw=draw)
