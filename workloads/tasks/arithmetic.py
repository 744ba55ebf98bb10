"""Sums and differences of numbers up to three digits."""

import random

from workloads.tasks.wording import GeneratedTask, ask

__all__ = ["ARITHMETIC"]


def draw(rng: random.Random) -> tuple[str, str]:
    """A sum or a difference that is not negative."""
    a, b = rng.randint(10, 999), rng.randint(10, 999)
    if rng.random() < 0.5:
        return ask(rng, f"{a} + {b}", f"{a} plus {b}", f"the sum of {a} and {b}"), str(a + b)
    a, b = max(a, b), min(a, b)
    phrases = (f"{a} - {b}", f"{a} minus {b}", f"the number left when {b} goes from {a}")
    return ask(rng, *phrases), str(a - b)


ARITHMETIC = GeneratedTask(name="arithmetic", description="sums and differences", verifier="integer", draw=draw)
