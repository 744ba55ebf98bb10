"""Python one-liners over a list: filter, map, count and sum."""

import keyword
import random

from workloads.tasks.wording import GeneratedTask, ask, word

__all__ = ["CODE"]

FILTERS = {"over": ">", "under": "<", "equal to": "==", "other than": "!="}

MAPS = {"plus": "+", "minus": "-", "times": "*"}


def identifier(rng: random.Random) -> str:
    """An invented word that Python accepts as a name."""
    while keyword.iskeyword(name := word(rng, 3, 6)):
        pass
    return name


def draw(rng: random.Random) -> tuple[str, str]:
    """An expression over a list of invented name."""
    name, limit = identifier(rng), rng.randint(0, 99)
    relation = rng.choice(sorted(FILTERS))
    test = f"x {FILTERS[relation]} {limit}"
    of = rng.choice((f"of the list {name}", f"in the Python list {name}"))
    kind = rng.choice(("filter", "map", "count", "sum"))
    if kind == "map":
        operator, other = rng.choice(sorted(MAPS)), rng.randint(2, 99)
        prompt = ask(rng, f"all items {of} {operator} {other}", f"each number {of} {operator} {other}")
        return prompt, f"[x {MAPS[operator]} {other} for x in {name}]"
    if kind == "filter":
        prompt = ask(rng, f"the items {of} {relation} {limit}", f"all numbers {of} that are {relation} {limit}")
        return prompt, f"[x for x in {name} if {test}]"
    if kind == "count":
        return ask(rng, f"the count of items {of} {relation} {limit}"), f"sum({test} for x in {name})"
    return ask(rng, f"the sum of numbers {of} {relation} {limit}"), f"sum(x for x in {name} if {test})"


CODE = GeneratedTask(name="python", description="Python list code", verifier="python_expression", draw=draw)
