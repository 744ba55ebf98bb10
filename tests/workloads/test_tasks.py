"""Every task's answers against an independent reading of its prompts, and the two splits."""

import json
import random
import re
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from workloads.errors import UnknownTaskError
from workloads.tasks import TASKS, get_task, sample_split, split_of
from workloads.tasks.numerals import in_words
from workloads.tasks.out_of_scope import sample_out_of_scope
from workloads.tasks.velm import ADJECTIVES, NOUNS, VERBS
from workloads.tasks.wording import OPENERS
from workloads.verifiers import verify

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def body(prompt: str) -> str:
    """The prompt without its opener and its end."""
    opener = max((o for o in OPENERS if prompt.startswith(f"{o} ")), key=len)
    return prompt[len(opener) + 1 :].rstrip("?.")


def arithmetic(text: str) -> str:
    a, b = map(int, re.findall(r"\d+", text))
    if "goes from" in text:
        return str(b - a)
    return str(a - b if "-" in text or "minus" in text else a + b)


def cipher(text: str) -> str:
    shift = int(re.findall(r"\d", text)[0])
    found = re.match(r"(\w+) with each|the word (\w+) in|the cipher of (\w+)", text)
    assert found
    plain = next(filter(None, found.groups()))
    return plain.translate(str.maketrans(ALPHABET, ALPHABET[shift:] + ALPHABET[:shift]))


def dates(text: str) -> str:
    written = re.sub(r"^.*?(after|follows) ", "", text)
    for pattern in ("%d %B %Y", "%B %d, %Y", "%d/%m/%Y"):
        try:
            return f"{datetime.strptime(written, pattern) + timedelta(days=1):%Y-%m-%d}"
        except ValueError:
            continue
    raise AssertionError(text)


def extraction(text: str) -> str:
    record = text[text.index("{") :]
    found = re.match(r'the value of (\w+) in|the (\w+) in|"(\w+)" from', text)
    assert found
    return json.dumps(json.loads(record)[next(filter(None, found.groups()))])


def reverse(text: str) -> str:
    found = re.match(r"the letters of (\w+) in|the word (\w+) from|(\w+) backwards", text)
    assert found
    return "".join(reversed(next(filter(None, found.groups()))))


def slugs(text: str) -> str:
    title = re.sub(r"^the slug of |^a slug for the title | as a slug$", "", text)
    return title.lower().replace(" ", "-")


def sorting(text: str) -> str:
    return " ".join(map(str, sorted(map(int, re.findall(r"\d+", text)))))


def velm(text: str) -> str:
    english = re.sub(r'^in Velm: |^the Velm for |" in Velm$|^"', "", text).split()
    assert english.pop(0) == "the"
    cut = english.index("the")
    verb = VERBS[english[cut - 1]]

    def phrase(words: list[str], suffix: str) -> str:
        noun = words[-1]
        form = NOUNS[noun] + suffix if noun in NOUNS else NOUNS[noun[:-1]] + "n" + suffix
        return " ".join([form, *(ADJECTIVES[word] for word in words[:-1])])

    return f"{verb} {phrase(english[: cut - 1], '')} {phrase(english[cut + 1 :], 'ak')}"


REFERENCES: dict[str, Callable[[str], str]] = {
    "arithmetic": arithmetic,
    "cipher": cipher,
    "dates": dates,
    "json": extraction,
    "reverse": reverse,
    "slugs": slugs,
    "sorting": sorting,
    "velm": velm,
}


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_answers_are_what_an_independent_reading_of_the_prompt_gives(name: str) -> None:
    for problem in sample_split(get_task(name), "test", 400, 3):
        assert problem.answer == REFERENCES[name](body(problem.prompt)), problem.prompt


def test_python_answers_mean_what_the_prompt_says() -> None:
    numbers = [0, 3, 7, 7, 50, 98, 99]
    compare = {"over": int.__gt__, "under": int.__lt__, "equal to": int.__eq__, "other than": int.__ne__}
    change = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    for problem in sample_split(get_task("python"), "test", 400, 3):
        text = body(problem.prompt)
        name = re.findall(r"list (\w+)", text)[0]
        limit = int(text.split()[-1])
        got = eval(problem.answer, {name: numbers, "sum": sum})
        after = text[text.index(f"list {name}") + len(f"list {name}") :]
        word = next(w for w in (*compare, *change) if f" {w} " in after)
        if word in change:
            assert got == [change[word](x, limit) for x in numbers], text
            continue
        kept = [x for x in numbers if compare[word](x, limit)]
        assert got == (len(kept) if "count" in text else sum(kept) if "the sum" in text else kept), text


def test_sql_answers_name_the_column_the_table_and_the_condition_of_the_prompt() -> None:
    signs = {"over": ">", "under": "<", "of": "="}
    for problem in sample_split(get_task("sql"), "test", 400, 3):
        text = body(problem.prompt)
        found = re.search(r"with (\w+) (over|under|of) (\d+)", text)
        assert found
        column, relation, limit = found.groups()
        assert problem.answer.endswith(f" WHERE {column}{signs[relation]}{limit}"), text
        selected, table = re.fullmatch(r"SELECT (\S+) FROM (\w+) WHERE .*", problem.answer).groups()  # type: ignore[union-attr]
        assert f" {table} with " in text
        assert ("count" in text) if selected == "COUNT(*)" else f"the {selected} " in text


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (7, "seven"),
        (40, "forty"),
        (115, "one hundred fifteen"),
        (20_038, "twenty thousand thirty-eight"),
        (600_001, "six hundred thousand one"),
    ],
)
def test_numbers_in_words_by_hand(n: int, words: str) -> None:
    assert in_words(n) == words


def test_numeral_answers_spell_back_to_their_prompts() -> None:
    for problem in sample_split(get_task("numerals"), "test", 200, 3):
        assert in_words(int(problem.answer)) in problem.prompt


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_tasks_own_answers_pass_its_verifier_and_another_answer_does_not(name: str) -> None:
    first, second = sample_split(get_task(name), "test", 2, 0)
    assert verify(get_task(name).verifier, first.answer, first.answer)
    assert not verify(get_task(name).verifier, first.answer, second.answer)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_splits_are_disjoint_reproducible_and_short(name: str) -> None:
    test, train = (sample_split(get_task(name), split, 300, 0) for split in ("test", "train"))
    assert not {p.prompt for p in test} & {p.prompt for p in train}
    assert all(split_of(p.prompt) == "test" for p in test)
    assert test == sample_split(get_task(name), "test", 300, 0)
    assert test != sample_split(get_task(name), "test", 300, 1)
    assert max(len(p.prompt.encode()) for p in (*test, *train)) <= 100
    assert max(len(p.answer.encode()) for p in (*test, *train)) <= 44


@pytest.mark.parametrize("name", sorted(TASKS))
def test_prompt_spaces_are_larger_than_a_hundred_thousand(name: str) -> None:
    rng, n = random.Random(0), 5_000
    repeats = n - len({get_task(name).sample(rng).prompt for _ in range(n)})
    # birthday bound: from 100,000 equally likely prompts 123 repeats are expected, give or take 11
    assert repeats < n * n / (2 * 100_000)


def test_tasks_share_their_openers() -> None:
    for name in TASKS:
        starts = {p.prompt.split()[0] for p in sample_split(get_task(name), "test", 300, 0)}
        assert starts == {opener.split()[0] for opener in OPENERS}


def test_an_unknown_task_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownTaskError, match="unknown task 'chess'; tasks are arithmetic, "):
        get_task("chess")


def test_out_of_scope_queries_of_the_two_splits_are_of_different_kinds() -> None:
    test, train = (sample_out_of_scope(split, 300, 0) for split in ("test", "train"))
    assert len({*test, *train}) == 600
    assert not any("weather" in query or "recipe" in query for query in test)
    assert any("weather" in query for query in train)
    assert test == sample_out_of_scope("test", 300, 0)
