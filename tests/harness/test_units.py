"""Numbers as a reader sees them."""

import pytest

from harness.summary import Estimate
from harness.units import (
    MISSING,
    format_bytes,
    format_count,
    format_factor,
    format_interval,
    format_number,
    format_seconds,
    format_share,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (0.0000123, "12.3 µs"),
        (0.001, "1.00 ms"),
        (0.0115, "11.5 ms"),
        (0.9994, "999 ms"),
        (1.0, "1.00 s"),
        (125.4, "125 s"),
    ],
)
def test_duration_takes_the_unit_that_keeps_it_readable(value: float, text: str) -> None:
    assert format_seconds(value) == text


def test_undefined_number_is_a_dash_and_never_zero() -> None:
    for form in (format_bytes, format_count, format_factor, format_number, format_seconds, format_share):
        assert form(None) == MISSING


def test_sizes_are_binary_and_large_ones_are_gibibytes() -> None:
    assert format_bytes(33 * 1024**2) == "33.0 MiB"
    assert format_bytes(3304 * 1024**2) == "3,304 MiB"
    assert format_bytes(12 * 1024**3) == "12.0 GiB"


def test_interval_is_in_the_unit_of_its_value() -> None:
    assert format_interval(Estimate(value=0.9, low=0.8, high=1.2), "seconds") == "[800, 1,200]"
    assert format_interval(Estimate(value=0.5, low=0.25, high=0.75), "share") == "[25.0, 75.0]"


def test_open_bound_is_a_dash_and_no_bounds_are_no_interval() -> None:
    assert format_interval(Estimate(value=2.0, low=1.0, high=None), "seconds") == "[1.00, –]"
    assert format_interval(Estimate(value=2.0, low=None, high=None), "seconds") == ""
    assert format_interval(None, "seconds") == ""
