"""How a family's quality looks on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

__all__ = ["quality_tables"]

Row = Mapping[str, Any]


def quality_tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """The experts on their own tasks and the others on them, the router's accuracy, and its mistakes."""
    yield experts_table(result["answers"])
    yield router_table(result["router"])
    yield mistakes_table(result["confusion"])


def experts_table(rows: Sequence[Row]) -> Table:
    """Exact match in percent, a row for each task: its own expert, the base, and the best of the other experts."""
    title = f"exact match, %, {rows[0]['n']} unseen problems a task"
    table = Table("task", "own expert", "95 % interval", "base", "best other expert", title=title)
    for task in sorted({row["task"] for row in rows}):
        on_task = {row["model"]: row for row in rows if row["task"] == task}
        base, own = on_task.pop("base"), on_task.pop(task)
        best = max(on_task.values(), key=lambda row: row["value"], default=None)
        other = "" if best is None else f"{percent(best)} ({best['model']})"
        table.add_row(task, percent(own), interval(own), percent(base), other)
    return table


def router_table(rows: Sequence[Row]) -> Table:
    """The router's accuracy in each scenario, all domains together."""
    table = Table("scenario", "accuracy, %", "95 % interval", "queries", title="router")
    for row in rows:
        if row["domain"] == "all":
            table.add_row(row["scenario"], percent(row), interval(row), str(row["n"]))
    return table


def mistakes_table(rows: Sequence[Row]) -> Table:
    """What the router took for something else, every expert listed."""
    table = Table("query of", "chosen", "queries", title="router's mistakes with every expert listed")
    for row in rows:
        right = "none of these" if row["domain"] == "out-of-scope" else row["domain"]
        if row["chosen"] != right:
            table.add_row(row["domain"], row["chosen"], str(row["count"]))
    return table


def percent(row: Row) -> str:
    """The share in percent."""
    return f"{100 * row['value']:.1f}"


def interval(row: Row) -> str:
    """The interval in percent."""
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
