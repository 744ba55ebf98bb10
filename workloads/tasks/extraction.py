"""One value of a JSON object, by its key."""

import json
import random

from workloads.tasks.wording import GeneratedTask, ask, word

__all__ = ["EXTRACTION"]

KEYS = ("name", "city", "age", "day", "price", "team", "code", "color", "size", "date", "level", "street")

MAX_PROMPT_BYTES = 100


def value(rng: random.Random) -> str | int | bool:
    """A word, an integer or a boolean."""
    kind = rng.random()
    if kind < 0.6:
        return word(rng, 3, 6)
    return rng.randint(0, 9999) if kind < 0.9 else rng.random() < 0.5


def draw(rng: random.Random) -> tuple[str, str]:
    """An object of two to four keys, and the value of one of them, as JSON."""
    while True:
        keys = rng.sample(KEYS, rng.randint(2, 4))
        record: dict[str, str | int | bool] = {key: value(rng) for key in keys}
        wanted = rng.choice(keys)
        text = json.dumps(record, separators=(",", ":"))
        prompt = ask(rng, f"the {wanted} in {text}", f"the value of {wanted} in {text}", f'"{wanted}" from {text}')
        if len(prompt) <= MAX_PROMPT_BYTES:
            return prompt, json.dumps(record[wanted])


EXTRACTION = GeneratedTask(name="json", description="values in JSON", verifier="json", draw=draw)
