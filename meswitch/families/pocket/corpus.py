"""The generic corpus of the base: words, digits, copies, records and look-ups, but no task's answers."""

import json
import random
import string

from workloads.tasks.wording import words_of

__all__ = ["corpus_document"]

WORDS = words_of(
    "the a of and to in that it was for on with as his her they at be this from have or by one had not but "
    "what all were when we there can an your which their said if do will each about how up out them then she "
    "many some so these would other into has more two like him see time could no make than first been its who "
    "now people my made over did down only way find use may water long little very after words called just "
    "where most know get through back much before go good new write our used me man too any day same right "
    "look think also around another came come work three word must because does part even place well such "
    "here take why things help put years different away again off went old number great tell men say small "
    "every found still between name should home big give air line set own under read last never us left end "
    "along while might next sound below saw something thought both few those always looked show large often "
    "together asked house world going want school important until form food keep children feet land side "
    "without boy once animals life enough took four head above kind began almost live page got earth need far "
    "hand high year mother light country father let night picture being study second soon story since white "
    "ever paper hard near sentence better best across during today however sure knew it's try told young sun "
    "thing whole hear example heard several change answer room sea against top turned learn point city play "
    "toward five himself usually money seen didn't car morning list table digits letters order code date "
    "title value total sum"
)

PUNCTUATION = (".", ".", ".", "?", "!", ";", ":")


def random_text(rng: random.Random, low: int, high: int) -> str:
    """A string of random letters, digits, or both, perhaps with a capital."""
    alphabet = rng.choice(
        (string.ascii_lowercase, string.ascii_letters, string.digits, string.ascii_lowercase + string.digits)
    )
    return "".join(rng.choices(alphabet, k=rng.randint(low, high)))


def item(rng: random.Random) -> str:
    """A word, a number or a random string."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(WORDS)
    return str(rng.randint(0, 10 ** rng.randint(1, 5))) if kind < 0.65 else random_text(rng, 1, 8)


def sentences(rng: random.Random) -> str:
    """Words at random with a few strings and numbers among them."""
    parts = []
    for _ in range(rng.randint(1, 4)):
        words = [rng.choice(WORDS) if rng.random() < 0.85 else item(rng) for _ in range(rng.randint(3, 9))]
        parts.append(" ".join(words).capitalize() + rng.choice(PUNCTUATION))
    return " ".join(parts)


def repetition(rng: random.Random) -> str:
    """One phrase over and over: what teaches induction."""
    phrase = " ".join(item(rng) for _ in range(rng.randint(1, 5)))
    joint = rng.choice((" ", ", ", "; ", " | ", "\n", "-"))
    return joint.join([phrase] * rng.randint(2, 5))


def counting(rng: random.Random) -> str:
    """Numbers or letters in steps, up or down."""
    step = rng.choice((1, 1, 1, 2, 3, 5, 10, -1, -1))
    if rng.random() < 0.3:
        start = rng.randrange(26)
        return " ".join(chr((start + i * step) % 26 + 97) for i in range(rng.randint(4, 14)))
    start = rng.randint(20, 10 ** rng.randint(2, 4))
    return rng.choice((" ", ", ")).join(str(max(0, start + i * step)) for i in range(rng.randint(3, 10)))


def record(rng: random.Random) -> str:
    """An object, a list or an assignment, to show quotes and brackets."""
    kind = rng.random()
    items = [item(rng) for _ in range(rng.randint(2, 5))]
    if kind < 0.4:
        return json.dumps({rng.choice(WORDS): x for x in items}, separators=(",", ":"))
    if kind < 0.7:
        return f"{rng.choice(WORDS)} = [{', '.join(items)}]"
    return "\n".join(f"{rng.choice(WORDS)}: {x}" for x in items)


def look_up(rng: random.Random) -> str:
    """Pairs of names and values, then the pairs again in another order."""
    names = rng.sample(WORDS, rng.randint(2, 5))
    pairs = [f"{name} {rng.choice(('->', '=', ':'))} {item(rng)}" for name in names]
    again = rng.sample(pairs, len(pairs))
    return "; ".join(pairs) + ". " + "; ".join(again)


def dialogue(rng: random.Random) -> tuple[str, str]:
    """A request that copying alone answers."""
    text = " ".join(item(rng) for _ in range(rng.randint(1, 6)))
    verb = rng.choice(("Say", "Repeat", "Copy", "Echo", "Type", "Print"))
    return f"{verb} {rng.choice(('this: ', 'again: ', ''))}{text}{rng.choice(('', '.'))}", text


def corpus_document(rng: random.Random) -> tuple[str, str | None]:
    """One document: a text and `None`, or a request and its answer."""
    kind = rng.random()
    if kind < 0.25:
        return dialogue(rng)
    makers = (sentences, repetition, counting, record, look_up)
    return rng.choices(makers, weights=(3, 3, 2, 2, 2))[0](rng), None
