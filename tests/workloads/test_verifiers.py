"""Verifiers decide by a rule, and an unreadable output is wrong."""

import pytest

from workloads.errors import UnknownVerifierError
from workloads.verifiers import VERIFIERS, verify


@pytest.mark.parametrize(
    ("verifier", "expected", "output"),
    [
        ("exact", "abc", " abc\n"),
        ("exact", "", "  "),
        ("integer", "42", " +42\n"),
        ("integer", "-7", "-007"),
        ("json", '{"a": 1, "b": [true, null]}', '{"b":[true,null],"a":1.0}'),
        ("json", '"x"', ' "\\u0078" '),
        ("python_expression", "[x for x in xs if x > 1]", "[ x for x in xs if (x>1) ]"),
        ("python_expression", "'a'", '"a"'),
        ("python_expression", r"'\d'", r"'\d'"),
    ],
)
def test_an_answer_that_means_the_same_is_right(verifier: str, expected: str, output: str) -> None:
    assert verify(verifier, expected, output)


@pytest.mark.parametrize(
    ("verifier", "expected", "output"),
    [
        ("exact", "abc", "ABC"),
        ("exact", "abc", "abc."),
        ("exact", "a b", "a  b"),
        ("integer", "42", "42.0"),
        ("integer", "42", "4 2"),
        ("integer", "42", "forty-two"),
        ("integer", "42", ""),
        ("integer", "10", "1_0"),
        ("integer", "1", "\u0661"),
        ("integer", "1", "1" * 5000),
        ("json", "1", "true"),
        ("json", "[1, 2]", "[2, 1]"),
        ("json", '{"a": 1}', '{"a": 1, "a": 1}'),
        ("json", '{"a": 1}', '{"a": 1, "b": 2}'),
        ("json", "null", "NaN"),
        ("json", "null", ""),
        ("json", "[]", "[" * 100_000),
        ("python_expression", "a + b", "b + a"),
        ("python_expression", "a + b", "a +"),
        ("python_expression", "a + b", "x = a + b"),
        ("python_expression", "a", "(" * 1000 + "a" + ")" * 1000),
        ("python_expression", "a", "a\0"),
    ],
)
def test_an_answer_that_differs_or_cannot_be_read_is_wrong(verifier: str, expected: str, output: str) -> None:
    assert not verify(verifier, expected, output)


def test_an_unknown_verifier_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownVerifierError, match="one of exact, integer, json, python_expression, got 'vibes'"):
        verify("vibes", "a", "a")


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_every_verifier_can_say_both(verifier: str) -> None:
    assert verify(verifier, "1", "1")
    assert not verify(verifier, "1", "2")
