from collections.abc import Iterator

import pytest

from harness.fidelity.scorer import parabola_minimum


def curve(values: list[float]) -> Iterator[float]:
    return ((value - 1.03) ** 2 for value in values)


def test_parabola_is_least_where_it_is() -> None:
    gains = [0.8, 0.9, 1.0, 1.1, 1.25]
    assert parabola_minimum(gains, list(curve(gains))) == pytest.approx(1.03)
    assert parabola_minimum(gains, [5.0, 4, 3, 2, 1]) == 1.25
    assert parabola_minimum(gains, [1.0, 1, 1, 1, 1]) == 0.8
