"""What the router is trained on: queries of the tasks, of invented domains, and of none.

Options are drawn anew for every row: which domains are listed, in which order, and in which of several wordings. Most
domains are invented for the row, named by words that their queries contain, so that reading the descriptions is
learned and a domain that is added later can be chosen too.
"""

import random
from collections.abc import Mapping, Sequence

from meswitch.router.prompt import NONE_LETTER, router_prompt
from workloads.tasks import Problem
from workloads.tasks.out_of_scope import sample_out_of_scope
from workloads.tasks.wording import ask, word, words_of

__all__ = ["DESCRIPTIONS", "routing_pairs"]

DESCRIPTIONS: Mapping[str, tuple[str, ...]] = {
    "arithmetic": ("sums and differences", "adding numbers", "plus and minus", "simple arithmetic"),
    "cipher": ("letter shift cipher", "cipher with a key", "moved letters", "Caesar cipher"),
    "python": ("Python list code", "code over a Python list", "code for list items", "Python expressions"),
    "dates": ("the next date", "the day after a date", "calendar dates", "day that follows"),
    "json": ("values in JSON", "JSON look-ups by key", "JSON objects", "fields of a record"),
    "reverse": ("reversed words", "letters backwards", "words back to front", "reverse a string"),
    "sorting": ("numbers in order", "sorted numbers", "small to large", "order a list"),
    "sql": ("SQL on a table", "database queries", "rows of a table in SQL", "SQL statements"),
    "velm": ("Velm translation", "sentences in Velm", "the language Velm", "translate to Velm"),
}
"""Wordings of each trained domain, at most 24 bytes; the first is the task's own description."""

MAX_PROMPT_BYTES = 316
"""Longer questions are drawn again: one row length for all."""

ENGLISH = words_of(
    "apple bank beach bird bridge camera castle chair cheese circle clock coat coin color cotton desert "
    "doctor dream engine fever field film flower forest fruit garden guitar hammer harbour heart hotel insect "
    "island jacket kitchen lake lamp law leaf lesson library market medicine metal mirror money mountain "
    "museum music nation needle novel ocean office orange painting palace paper pencil pepper piano planet "
    "plant poem police prison rabbit radio recipe river rocket salad school season shadow shoe silver singer "
    "sport station statue stone story street student sugar summer surgery tax taxi tea team temple theatre "
    "ticket tiger tower toy traffic train travel tree truck uniform valley vegetable violin wagon wallet war "
    "water weather wedding wheel window wine winter wizard wool zebra hex binary roman vowels prefix rhyme "
    "unit price name email phone address length count weight metre plural synonym"
)

COMMON = words_of("number letter word list day name value table title key item sum count text order sentence")
"""Words that queries of many domains contain: one of them alone decides nothing."""

CLUSTERS = words_of("bl br ch cl cr dr fl fr gl gr pl pr sc sh sk sl sm sn sp st sw th tr tw b d f g k l m n p r s t v")

ENDINGS = words_of("b ck ct d ft g ld lk ll lt m mp n nd ng nk nt p r rd rk rm rn rt sh sk sp st t x z")

FILLERS = ("of", "for", "with", "in", "about", "near", "from", "to", "as", "and")


def stem(rng: random.Random) -> str:
    """A word of any make: English, or invented with open or closed syllables."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(ENGLISH)
    if kind < 0.6:
        return word(rng, 3, 8)
    syllable = rng.choice(CLUSTERS) + rng.choice("aeiou") + rng.choice(ENDINGS)
    return syllable if rng.random() < 0.7 else syllable + word(rng, 2, 4)


def domain_words(rng: random.Random) -> tuple[str, ...]:
    """One to three words that name an invented domain."""
    return tuple(dict.fromkeys(stem(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))))


def misleading_words(rng: random.Random) -> tuple[str, ...]:
    """The words of an invented domain that shares a common one with many queries."""
    return tuple(rng.sample((rng.choice(COMMON), stem(rng), stem(rng)), rng.choice((2, 2, 3))))


def inflected(rng: random.Random, root: str) -> str:
    """The word as it is, or in a form that shares its beginning."""
    return root + rng.choice(("", "", "", "s", "ed", "ing", "er"))


def described(rng: random.Random, words: Sequence[str]) -> str:
    """A description of an invented domain, at most 24 bytes."""
    shown = [inflected(rng, w) for w in words]
    joint = rng.choice((" ", " and ", " to ", " of ", " in "))
    text = rng.choice(("", "", "", "the ", "all ", "write ", "find ")) + joint.join(shown)
    return text if len(text) <= 24 else shown[0][:24]


def noise(rng: random.Random) -> str:
    """Something a query carries besides its domain's words."""
    kind = rng.random()
    if kind < 0.4:
        return word(rng, 2, 8)
    if kind < 0.6:
        return str(rng.randint(0, 10 ** rng.randint(1, 6)))
    if kind < 0.8:
        return " ".join(word(rng, 2, 6) for _ in range(rng.randint(2, 4)))
    return rng.choice(ENGLISH)


def invented_query(rng: random.Random, words: Sequence[str]) -> str:
    """A query that contains at least one of its domain's words among other things."""
    named = [inflected(rng, w) for w in rng.sample(words, rng.randint(1, len(words)))]
    article = rng.choice(("the ", "a ", "all ", ""))
    if rng.random() < 0.5:
        what, thing = " ".join(named), material(rng)
        joint = rng.choice(FILLERS)
        phrase = rng.choice((f"{what} {joint} {thing}", f"{thing} {joint} a {what}", f"{thing} {joint} {what}"))
        return ask(rng, f"{article}{phrase}"[:90])
    parts = [*named, *(noise(rng) for _ in range(rng.randint(1, 3)))]
    rng.shuffle(parts)
    phrase = parts[0]
    for part in parts[1:]:
        phrase += f" {rng.choice(FILLERS)} {part}" if rng.random() < 0.7 else f" {part}"
    return ask(rng, f"{article}{phrase}"[:90])


def material(rng: random.Random) -> str:
    """What a request is about: some words, perhaps capitalised, after a common noun or not."""
    words = [word(rng, 2, 7) if rng.random() < 0.7 else stem(rng) for _ in range(rng.randint(1, 5))]
    text = " ".join(w.capitalize() if rng.random() < 0.4 else w for w in words)
    text = str(rng.randint(0, 10 ** rng.randint(2, 6))) if rng.random() < 0.15 else text
    return f"the {rng.choice(COMMON)} {text}" if rng.random() < 0.4 else text


def routing_pairs(
    problems: Sequence[Problem], count: int, seed: int, *, max_options: int = 12
) -> list[tuple[str, str]]:
    """`count` (router prompt, letter) pairs whose task queries come from `problems`.

    Shares: 45 % task queries, 40 % queries of invented domains, 15 % out of scope; in a tenth of the first two the
    right domain is not listed, and the answer is "none of these".
    """
    rng = random.Random(f"routing/{seed}")
    strangers = sample_out_of_scope("train", 8_000, seed)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        pair = routing_pair(rng, problems, strangers, max_options)
        if len(pair[0]) <= MAX_PROMPT_BYTES:
            pairs.append(pair)
    return pairs


def routing_pair(
    rng: random.Random, problems: Sequence[Problem], strangers: Sequence[str], max_options: int
) -> tuple[str, str]:
    """One router prompt and its letter."""
    invented = {f"#{i}": domain_words(rng) for i in range(rng.randint(0, max_options))}
    decoys = {f"?{i}": misleading_words(rng) for i in range(rng.choice((0, 0, 1, 2)))}
    trained = rng.sample(sorted(DESCRIPTIONS), rng.randint(2, len(DESCRIPTIONS)))
    kind, wanted = rng.random(), None
    if kind < 0.45:
        problem = rng.choice(problems)
        query, wanted = problem.prompt, problem.task
    elif kind < 0.85:
        name, words = "#own", domain_words(rng)
        query, wanted = invented_query(rng, words), name
        invented[name] = words
    else:
        query = rng.choice(strangers)
    # an invented domain must not answer a query of another by accident; a decoy may share its common word only
    invented = {n: w for n, w in invented.items() if n == wanted or not shares(w, query)}
    invented |= {n: w for n, w in decoys.items() if not shares([x for x in w if x not in COMMON], query)}
    others = [name for name in (*invented, *trained) if name != wanted]
    rng.shuffle(others)
    # every second row resembles a deployment: the trained domains and few others
    if rng.random() < 0.5:
        others = sorted(others, key=lambda name: name.startswith("#"))
    chosen = others[: rng.randint(1, max_options - 1)]
    listed = wanted is not None and rng.random() > 0.1
    if wanted is not None and listed:
        chosen.append(wanted)
    rng.shuffle(chosen)
    domains = {
        name: described(rng, invented[name]) if name in invented else rng.choice(DESCRIPTIONS[name]) for name in chosen
    }
    prompt = router_prompt(domains, query)
    letters = {expert: letter for letter, expert in prompt.experts.items()}
    return prompt.text, letters[wanted] if wanted is not None and listed else NONE_LETTER


def shares(words: Sequence[str], query: str) -> bool:
    """Whether the beginning of any of `words` occurs in `query`."""
    return any(w[:4] in query.lower() for w in words)
