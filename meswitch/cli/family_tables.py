"""How a family's quality looks on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

__all__ = ["quality_tables"]


def quality_tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """The matrix of models and tasks, the router's accuracy, and its confusion matrix."""
    yield matrix_table(result["answers"])
    yield router_table(result["router"])
    yield confusion_table(result["confusion"])


def matrix_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Exact match in percent: a row for each model, a column for each task."""
    tasks = sorted({row["task"] for row in rows})
    shares = {(row["model"], row["task"]): row["value"] for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    table = Table("model", *tasks, title=f"exact match, %, {rows[0]['n']} unseen problems a task")
    for model in models:
        cells = [f"{100 * shares[model, task]:.1f}" for task in tasks]
        table.add_row(model, *(f"[bold]{c}[/]" if t == model else c for t, c in zip(tasks, cells, strict=True)))
    return table


def router_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The router's accuracy in each scenario, all domains together."""
    table = Table("scenario", "accuracy, %", "95 % interval", "n", title="router")
    for row in rows:
        if row["domain"] == "all":
            interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
            table.add_row(row["scenario"], f"{100 * row['value']:.1f}", interval, str(row["n"]))
    return table


def confusion_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Counts: a row for each domain, a column for each choice."""
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    choices = sorted({row["chosen"] for row in rows})
    counts = {(row["domain"], row["chosen"]): row["count"] for row in rows}
    table = Table("query of", *choices, title="router's choices with every expert listed")
    for domain in domains:
        table.add_row(domain, *(str(counts.get((domain, choice), "")) for choice in choices))
    return table
