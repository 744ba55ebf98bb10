import pandas as pd

from reports.figures.rate_distortion import draw_rate_distortion
from reports.figures.theme import drawing


def arms() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": ["x", "x", "y"],
            "bits": [0.5, 2.0, 1.0],
            "kl": [0.1, 0.01, 0.2],
            "low": [0.09, -0.001, 0.1],
            "high": [0.11, 0.02, 0.3],
            "on_front": [True, True, False],
        }
    )


def test_front_joins_the_arms_that_none_beats() -> None:
    with drawing():
        figure = draw_rate_distortion(arms(), title="t")
        assert figure is not None
        ax = figure.axes[0]
        assert ax.lines[0].get_xdata().tolist() == [0.5, 2.0]  # type: ignore[union-attr]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["front", "x", "y"]
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_codecs_differ_in_colour_and_their_forms_in_marker() -> None:
    table = arms().assign(label=["x", "x form", "y"])
    with drawing():
        figure = draw_rate_distortion(table, title="t")
    assert figure is not None
    x, form, y = figure.axes[0].collections[1::2]
    assert x.get_facecolor().tolist() == form.get_facecolor().tolist()  # type: ignore[union-attr]
    assert x.get_facecolor().tolist() != y.get_facecolor().tolist()  # type: ignore[union-attr]
    assert x.get_paths()[0].vertices.tolist() != form.get_paths()[0].vertices.tolist()  # type: ignore[union-attr]


def test_legend_of_many_arms_stands_below_the_axes_and_within_the_figure() -> None:
    table = pd.concat([arms().assign(label=f"codec{number} of a long name") for number in range(40)])
    with drawing():
        figure = draw_rate_distortion(table, title="t")
        assert figure is not None
        figure.draw_without_rendering()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert 0 <= legend.y0 < legend.y1 <= axes.y0
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.x1


def test_no_arms_give_no_figure() -> None:
    assert draw_rate_distortion(arms()[:0], title="t") is None
