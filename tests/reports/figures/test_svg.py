"""Figures as parts of a page."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from reports.figures.svg import inline_svg, save, to_svg
from reports.figures.theme import ROLES, drawing, new_figure


def drawn(title: str = "a title") -> Figure:
    figure, axes = new_figure(2.0)
    axes[0, 0].plot([0, 1], [0, 1], color=ROLES["treatment"][0])
    axes[0, 0].set_title(title)
    return figure


def test_theme_colours_become_variables_but_text_stays_as_written() -> None:
    with drawing():
        element = inline_svg(to_svg(drawn("colour #3451d1")), "one", "a line")
    assert "stroke: var(--treatment)" in element
    assert ">colour #3451d1<" in element


def test_ids_carry_the_name_of_their_figure_and_references_follow() -> None:
    with drawing():
        element = inline_svg(to_svg(drawn()), "one", "a line")
    assert 'id="one-figure_1"' in element
    assert "url(#one-" in element
    assert 'id="figure_1"' not in element


def test_alternative_text_cannot_leave_its_attribute() -> None:
    element = inline_svg('<svg viewBox="0 0 1 1"></svg>', "one", 'say "hi" <b>')
    assert 'aria-label="say &quot;hi&quot; &lt;b&gt;"' in element


def test_document_without_a_view_box_is_refused() -> None:
    with pytest.raises(ValueError, match="viewBox"):
        inline_svg("<svg></svg>", "one", "nothing")


def test_name_with_dollars_is_drawn_as_it_is(tmp_path: Path) -> None:
    with drawing():
        document = save(drawn("$x_{1}$"), tmp_path / "name")
    assert "$x_{1}$" in document
    assert (tmp_path / "name.png").read_bytes().startswith(b"\x89PNG")


def test_light_colours_are_all_different_so_that_each_names_one_role() -> None:
    light = [colours[0].lower() for colours in ROLES.values()]
    assert len(set(light)) == len(light)


@pytest.mark.parametrize(
    ("ink", "ground"),
    [("text", "#ffffff"), ("muted", "#ffffff"), ("treatment", "#ffffff"), ("limit", "#ffffff")],
)
def test_inks_are_readable_on_a_light_page(ink: str, ground: str) -> None:
    assert contrast(ROLES[ink][0], ground) >= 4.5


@pytest.mark.parametrize(
    ("ink", "ground"), [("text", "#181e27"), ("muted", "#181e27"), ("treatment", "#181e27"), ("limit", "#181e27")]
)
def test_inks_are_readable_on_a_dark_page(ink: str, ground: str) -> None:
    assert contrast(ROLES[ink][1], ground) >= 4.5


@pytest.mark.parametrize("role", ["treatment", "baseline"])
@pytest.mark.parametrize("dark", [0, 1])
def test_numbers_in_full_cells_are_readable(role: str, dark: int) -> None:
    assert contrast(ROLES[f"on-{role}"][dark], ROLES[role][dark]) >= 4.5


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
