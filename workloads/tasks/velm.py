"""Velm, an invented language: verb first, adjectives after their noun, objects and plurals by suffix."""

import random

from workloads.tasks.wording import GeneratedTask, ask

__all__ = ["VELM"]

NOUNS = {
    "bird": "tiro", "boat": "mesh", "boy": "olun", "cloud": "vasi", "dog": "karp", "farmer": "dolmi",
    "snake": "suri", "friend": "lanto", "girl": "eshi", "horse": "bruk", "house": "pemo", "king": "gald",
    "lamp": "nuve", "letter": "fidu", "moon": "yali", "mother": "amara", "road": "stel", "river": "wono",
    "sailor": "hetti", "stone": "quor", "teacher": "zembi", "tree": "orth", "bear": "razu", "worker": "cobel",
    "number": "tavu", "word": "silp", "day": "menno", "name": "ivor", "list": "pluka", "queen": "galda",
}  # fmt: skip

VERBS = {
    "brings": "rek", "buys": "mofa", "calls": "tusi", "draws": "zin", "finds": "vek", "follows": "ludo",
    "gives": "hara", "hears": "opi", "helps": "sevu", "holds": "gret", "keeps": "nal", "knows": "wis",
    "likes": "umba", "loses": "dret", "makes": "kolo", "needs": "fip", "paints": "jora", "sees": "pan",
    "sells": "bix", "takes": "yed", "wants": "corr", "writes": "shal", "shows": "ondu", "asks": "milk",
}  # fmt: skip

ADJECTIVES = {
    "big": "gor", "black": "mur", "bright": "eli", "cold": "fris", "dry": "sek", "fast": "zap", "good": "bon",
    "green": "vir", "happy": "jol", "heavy": "pond", "new": "nex", "old": "vet", "quiet": "shu", "red": "rosk",
    "sad": "dol", "small": "mik", "strong": "fort", "tall": "alt", "white": "blan", "young": "juv",
}  # fmt: skip

PLURAL = "n"
OBJECT = "ak"


def noun_phrase(rng: random.Random, *, object_: bool) -> tuple[str, str]:
    """A noun, half of the time with an adjective, one third of the time plural, in English and in Velm."""
    noun, plural = rng.choice(sorted(NOUNS)), object_ and rng.random() < 1 / 3
    english = f"{noun}s" if plural else noun
    velm = NOUNS[noun] + (PLURAL if plural else "") + (OBJECT if object_ else "")
    if rng.random() < 0.5:
        return english, velm
    adjective = rng.choice(sorted(ADJECTIVES))
    return f"{adjective} {english}", f"{velm} {ADJECTIVES[adjective]}"


def draw(rng: random.Random) -> tuple[str, str]:
    """A sentence of subject, verb and object, and its translation."""
    subject, velm_subject = noun_phrase(rng, object_=False)
    thing, velm_thing = noun_phrase(rng, object_=True)
    verb = rng.choice(sorted(VERBS))
    sentence = f"the {subject} {verb} the {thing}"
    phrases = (f'"{sentence}" in Velm', f"the Velm for {sentence}", f"in Velm: {sentence}")
    return ask(rng, *phrases), f"{VERBS[verb]} {velm_subject} {velm_thing}"


VELM = GeneratedTask(name="velm", description="Velm translation", verifier="exact", draw=draw)
