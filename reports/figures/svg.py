"""Figures as text: a file of its own, or a part of a page that follows the reader's light or dark preference."""

import html
import io
import re
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from reports.figures.theme import ROLES

__all__ = ["css_variables", "inline_svg", "save", "to_svg"]

_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_ID = re.compile(r'(\bid="|url\(#|xlink:href="#)')
_HEX = re.compile(r"#[0-9a-f]{6}\b", re.IGNORECASE)
_OPENING = re.compile(r"<svg\b[^>]*>")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


def to_svg(figure: Figure) -> str:
    """`figure` as an SVG document, the same text for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    return _METADATA.sub("", buffer.getvalue())


def save(figure: Figure, stem: Path) -> str:
    """The SVG document of `figure`, after writing `stem`.svg and `stem`.png (on white, 144 dots per inch)."""
    document = to_svg(figure)
    stem.with_suffix(".svg").write_text(document, encoding="utf-8")
    # the places of the SVG's parts: finding them again takes as long as drawing
    figure.set_layout_engine("none")
    figure.savefig(stem.with_suffix(".png"), dpi=144, facecolor="white", transparent=False, metadata={"Software": None})
    return document


def inline_svg(document: str, name: str, alt: str) -> str:
    """The `<svg>` element of `document` for use inside a page.

    Ids get `name` as prefix, so that several figures share a page; colours of the theme become CSS variables;
    name spaces and metadata, which a page does not need, are left out. `alt` is what a screen reader says.
    """
    body = document[document.index("<svg") :]
    view_box = re.search(r'viewBox="([^"]+)"', body)
    if view_box is None:
        raise ValueError("an SVG document must have a viewBox")
    label = html.escape(alt, quote=True)
    opening = f'<svg class="figure" role="img" aria-label="{label}" viewBox="{view_box[1]}">'
    body = _OPENING.sub(lambda _: opening, body, count=1)
    body = _ID.sub(lambda match: f"{match[1]}{name}-", body)
    body = _in_markup(body, lambda markup: _HEX.sub(_as_variable, markup))
    return body.replace("xlink:href=", "href=").strip()


def css_variables(dark: bool) -> str:
    """Declarations of the theme's colours, for a light or a dark page."""
    return " ".join(f"--{role}: {colours[dark]};" for role, colours in ROLES.items())


def _in_markup(text: str, change: Callable[[str], str]) -> str:
    """`text` with `change` applied inside tags only: what people wrote stays as it is."""
    return re.sub(r"<[^>]*>", lambda match: change(match[0]), text)


_VARIABLE = {light.lower(): f"var(--{role})" for role, (light, _) in ROLES.items()}


def _as_variable(match: re.Match[str]) -> str:
    return _VARIABLE.get(match[0].lower(), match[0])
