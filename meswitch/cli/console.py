"""How results and progress look on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["format_bytes", "progress_bar", "stdout"]

WIDEST = 10_000
"""Columns, more than any table has."""

UNITS = ("B", "kB", "MB", "GB", "TB")


def stdout() -> Console:
    """Where results go; as wide as they are where that is no terminal, so that files and pipes get them whole."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDEST)


def format_bytes(count: int) -> str:
    """`count` in decimal units, such as `1.77 GB`."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.2f} {UNITS[unit]}" if unit else f"{count} B"


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, and the function that moves it: stage, done, total. Silent where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[stage]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None, stage="")

        def move(stage: str, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, stage=stage)

        yield move
