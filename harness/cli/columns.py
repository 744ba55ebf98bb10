"""Tables on a console: numbers stay whole, words fold where the console is narrow, and a file gets all of it."""

from collections.abc import Collection, Sequence
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["column_widths", "print_columns"]

GAP = 1
"""Characters between two columns."""

LEAST = 8
"""Characters that a column of words keeps, however narrow the console is."""


def print_columns(headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[str]) -> None:
    """Print `rows` below `headings` on stdout; where it is no terminal, no line is folded or cut.

    Args:
        rows: as wide as `headings`; taken literally.
        words: of the headings, those whose columns stand at the left and fold; all others are numbers.
    """
    console = Console()
    widths = column_widths(headings, rows, words=words, room=console.width if console.is_terminal else None)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for heading, width in zip(headings, widths, strict=True):
        is_words = heading in words
        justify: Literal["left", "right"] = "left" if is_words else "right"
        table.add_column(heading, justify=justify, width=width, no_wrap=not is_words, overflow="fold")
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    # beyond a narrow terminal its own wrapping is better than cut numbers
    console.width = max(console.width, sum(widths) + GAP * len(widths))
    console.print(table, highlight=False)


def column_widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[str], room: int | None
) -> list[int]:
    """Characters of each column, so that all are within `room` if columns of words allow it; `None` is no limit.

    The widest column of words gives way first: to its longest word as long as that is enough, then to `LEAST`.
    """
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if room is None:
        return widths
    folding = [number for number, heading in enumerate(headings) if heading in words]
    longest = [max(len(word) for text in column for word in text.split() or [""]) for column in columns]
    for least in (longest, [min(LEAST, width) for width in longest]):
        while sum(widths) + GAP * (len(widths) - 1) > room:
            wide = [number for number in folding if widths[number] > least[number]]
            if not wide:
                break
            widths[max(wide, key=lambda number: widths[number])] -= 1
    return widths
