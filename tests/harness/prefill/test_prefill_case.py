"""Prompts as people ask for them, and what is refused."""

from typing import Any

import pytest

from harness.errors import UsageError
from harness.prefill import DEFAULT_TOKENS, PrefillCase, PrefillOptions, parse_cases
from meswitch.config import SyntheticConfig


def case(tokens: int, *, start: int = 0, launches: Any = "graphs", has_expert: bool = True) -> PrefillCase:
    return PrefillCase(tokens=tokens, start=start, launches=launches, has_expert=has_expert)


def options(text: str, *, start: int = 0, **changes: Any) -> PrefillOptions:
    cases = parse_cases(text, start=start, has_single=False)
    return PrefillOptions(family="x", cases=cases, synthetic=SyntheticConfig(), **changes)


def test_each_length_comes_with_an_expert_and_with_the_base_alone() -> None:
    assert parse_cases("16, 64,16", start=3, has_single=False) == (
        case(16, start=3),
        case(16, start=3, has_expert=False),
        case(64, start=3),
        case(64, start=3, has_expert=False),
    )


def test_launches_by_themselves_are_added_when_asked_for() -> None:
    assert parse_cases("16", start=0, has_single=True) == (
        case(16),
        case(16, has_expert=False),
        case(16, launches="single"),
        case(16, launches="single", has_expert=False),
    )


def test_the_base_of_a_case_is_launched_alike() -> None:
    assert case(16, start=5, launches="single").base_only == case(16, start=5, launches="single", has_expert=False)


def test_the_default_lengths_are_those_that_are_published() -> None:
    assert {c.tokens for c in parse_cases(DEFAULT_TOKENS, start=0, has_single=False)} == {16, 128, 512}


@pytest.mark.parametrize("text", ["0", "-1", "", "16,", "a", "1.5", "16 32"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--tokens must be lengths from 1 on"):
        parse_cases(text, start=0, has_single=False)


def test_a_start_before_the_first_position_is_refused() -> None:
    with pytest.raises(UsageError, match="--start must be at least 0, got -1"):
        parse_cases("16", start=-1, has_single=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 2}, "--repeats must be at least 3, got 2"),
        ({"dtype": "float32"}, "--dtype must be bfloat16 or float16, got 'float32'"),
    ],
)
def test_a_measurement_that_would_say_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options("16", **changes)


def test_a_prompt_beyond_a_chunk_is_computed_in_chunks() -> None:
    asked = options("16,1100", start=7)
    assert asked.chunks(1100) == (512, 512, 76)
    assert asked.chunks(512) == (512,)
    assert asked.chunks(16) == (16,)
    assert asked.row_tokens == 1107
    # shorter prompts need no tensors for a whole chunk
    assert options("16,100").longest_chunk == 100
