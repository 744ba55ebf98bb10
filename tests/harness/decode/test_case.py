"""Cases as people write them, and what is refused."""

import pytest

from harness.decode import DEFAULT_CASES, DecodeCase, DecodeOptions, parse_cases
from harness.errors import UsageError
from meswitch.config import SyntheticConfig


def case(B: int, E: int, context: int = 512) -> DecodeCase:
    return DecodeCase(B=B, E=E, context=context)


def test_the_base_alone_is_added_for_each_number_of_rows() -> None:
    assert parse_cases("16x16, 4x2,16x1", context=512) == (
        case(16, 16),
        case(4, 2),
        case(16, 1),
        case(16, 0),
        case(4, 0),
    )


def test_the_default_cases_are_those_that_are_published() -> None:
    wanted = {(16, 16), (1, 1), (16, 1), (16, 0), (1, 0), (4, 4), (16, 4)}
    assert {(c.B, c.E) for c in parse_cases(DEFAULT_CASES, context=512)} == wanted | {(4, 0)}


def test_rows_belong_to_the_experts_in_turn() -> None:
    assert case(5, 2).slots == (0, 1, 0, 1, 0)
    assert case(2, 0).slots == (-1, -1)


@pytest.mark.parametrize("text", ["4x5", "0x0", "4", "4x", "4x-1", "", "4x4,", "ax1"])
def test_what_is_no_case_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--cases must be rows x experts"):
        parse_cases(text, context=512)


def test_a_context_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="--context must be at least 1, got 0"):
        parse_cases("1x1", context=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 2}, "--repeats must be at least 3"),
        ({"replays": 4}, "--replays at least 5"),
        ({"replays": 600}, "--context must be longer than --replays, 600, got 512"),
        ({"dtype": "float32"}, "--dtype must be bfloat16 or float16, got 'float32'"),
    ],
)
def test_a_measurement_that_would_say_nothing_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DecodeOptions(family="x", cases=(case(1, 1),), synthetic=SyntheticConfig(), **changes)  # type: ignore[arg-type]
