import pytest

from reports.figures.theme import log_seconds, new_figure


def ticks(low_s: float, high_s: float) -> list[str]:
    """Labels on the axis."""
    figure, axes = new_figure(3.0)
    ax = axes[0, 0]
    ax.plot([1, 2], [low_s, high_s])
    log_seconds(ax, "y")
    figure.canvas.draw()
    low, high = ax.get_ylim()
    shown = [label for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high]
    return [label.get_text() for label in shown]


@pytest.mark.parametrize(("low_s", "high_s"), [(0.0078, 0.0093), (0.00825, 0.00845), (1.05, 1.3), (0.0101, 0.0123)])
def test_a_short_axis_repeats_no_label(low_s: float, high_s: float) -> None:
    found = ticks(low_s, high_s)
    assert len(found) > 1
    assert len(set(found)) == len(found)


def test_a_label_says_where_its_tick_is() -> None:
    assert ticks(0.0078, 0.0093) == ["7.8 ms", "8.0 ms", "8.2 ms", "8.4 ms", "8.6 ms", "8.8 ms", "9.0 ms", "9.2 ms"]


def test_a_long_axis_has_one_digit() -> None:
    assert ticks(0.0009, 0.6) == ["1 ms", "3 ms", "10 ms", "30 ms", "100 ms", "300 ms"]
