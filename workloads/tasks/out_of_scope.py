"""Queries that belong to no task, worded like those that do: what a router has to refuse.

Kinds of query are split, not only queries: no kind that is tested was ever trained on.
"""

import random
from collections.abc import Callable

from workloads.tasks.base import Split
from workloads.tasks.wording import ask, word, words_of

__all__ = ["sample_out_of_scope"]

PLACES = words_of("Paris Lima Oslo Cairo Delhi Tokyo Rome Quito Bern Accra Seoul Perth Dublin Havana Kyiv Riga")
THINGS = words_of(
    "cats rain coffee trains snow music bread tigers winter chess apples ships mountains bees sleep paper "
    "glass gold tea volcanoes football robots gardens whales honey"
)
PEOPLE = words_of("sister boss neighbour teacher doctor uncle friend landlord coach cousin")
DISHES = words_of("soup pancakes risotto curry salad dumplings lasagne stew pizza noodles")
TRADES = words_of("plumber dentist baker tailor painter lawyer electrician gardener")


TRAIN_KINDS: tuple[Callable[[random.Random], tuple[str, ...]], ...] = (
    lambda r: (f"the weather in {r.choice(PLACES)}", f"the weather for {r.choice(PLACES)} on day {r.randint(1, 30)}"),
    lambda r: (f"a joke about {r.choice(THINGS)}", f"a joke about {r.choice(THINGS)} for my {r.choice(PEOPLE)}"),
    lambda r: (f"a poem about {r.choice(THINGS)} and {r.choice(THINGS)}",),
    lambda r: (f"the way from {r.choice(PLACES)} to {r.choice(PLACES)} by train",),
    lambda r: (f"a recipe for {r.choice(DISHES)} with {word(r, 4, 7)}",),
    lambda r: (f"the meaning of the word {word(r, 4, 8)}", f"the origin of the name {word(r, 4, 8)}"),
    lambda r: (f"a gift for my {r.choice(PEOPLE)} under {r.randint(10, 99)} euros",),
    lambda r: (f"the number of people in {r.choice(PLACES)} in {r.randint(1900, 2020)}",),
    lambda r: (f"why {r.choice(THINGS)} matter", f"advice on {r.choice(THINGS)} for beginners"),
    lambda r: (f"the price of {r.randint(2, 90)} {r.choice(THINGS)} in {r.choice(PLACES)}",),
    lambda r: (f"a short story with a {r.choice(TRADES)} and a {r.choice(PEOPLE)}",),
    lambda r: (f"the score of the {r.choice(PLACES)} game", f"who won the {r.choice(PLACES)} cup"),
    lambda r: (f"the capital of {word(r, 4, 8).capitalize()}", f"the flag of {word(r, 4, 8).capitalize()}"),
    lambda r: (f"the best time to visit {r.choice(PLACES)}", f"a museum in {r.choice(PLACES)}"),
)

TEST_KINDS: tuple[Callable[[random.Random], tuple[str, ...]], ...] = (
    lambda r: (f"a good {r.choice(TRADES)} near {r.choice(PLACES)}",),
    lambda r: (f"a letter of thanks to my {r.choice(PEOPLE)}", f"an excuse for my {r.choice(PEOPLE)}"),
    lambda r: (f"a summary of the film {word(r, 4, 8).capitalize()}", f"who wrote {word(r, 4, 8).capitalize()}"),
    lambda r: (f"the side effects of {word(r, 5, 8)}", f"a cure for {word(r, 5, 8)}"),
    lambda r: (f"a cheap flight to {r.choice(PLACES)} for {r.randint(2, 9)} people",),
    lambda r: (f"how {r.choice(THINGS)} are made", f"where {r.choice(THINGS)} come from"),
    lambda r: (f"a song like {word(r, 4, 8).capitalize()}", f"music for {r.choice(THINGS)}"),
    lambda r: (f"the history of {r.choice(THINGS)} in {r.choice(PLACES)}",),
)


def sample_out_of_scope(split: Split, count: int, seed: int) -> list[str]:
    """`count` different queries of the split's own kinds, the same for the same arguments."""
    rng = random.Random(f"out-of-scope/{split}/{seed}")
    kinds = TRAIN_KINDS if split == "train" else TEST_KINDS
    queries: dict[str, None] = {}
    while len(queries) < count:
        queries.setdefault(ask(rng, *rng.choice(kinds)(rng)))
    return list(queries)
