"""Latencies on a log axis, the least of them zero."""

import pandas as pd

from reports.figures.latency import draw_latency_by_arm


def test_latencies_of_zero_do_not_take_the_log_axis_with_them() -> None:
    # two chunks taken in together have no time between them
    requests = pd.DataFrame({"arm": ["x"] * 50, "tpot_s": [0.0] * 10 + [0.04] * 40})
    figure = draw_latency_by_arm(requests, "tpot_s", arms=["x"], treatment="x", label="time")
    assert figure is not None
    low, high = figure.axes[0].get_xlim()
    assert 0 < low <= 1e-6
    assert 0.04 <= high < 1
