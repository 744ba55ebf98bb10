"""A family's quality as Markdown: every model on every task, and what the router took for what."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from meswitch.families.quality_summary import NONE

__all__ = ["quality_markdown"]

OUT_OF_SCOPE = "out-of-scope"

Row = Mapping[str, Any]


def quality_markdown(result: Mapping[str, Any]) -> str:
    """Two tables from the content of a `family.json`, its numbers as they stand there.

    The first holds exact match in per cent, a row for each model and a column for each task; the second counts
    queries, a row for each domain and a column for each choice.
    """
    return "\n".join([*_answers(result["answers"]), "", *_confusion(result["confusion"]), ""])


def _answers(rows: Sequence[Row]) -> Iterator[str]:
    tasks = sorted({row["task"] for row in rows})
    models = ["base", *sorted({row["model"] for row in rows} - {"base"})]
    shares = {(row["model"], row["task"]): row["value"] for row in rows}
    yield _line(["exact match, %", *tasks])
    yield _line(["---", *["---:"] * len(tasks)])
    for model in models:
        yield _line([f"`{model}`", *(_percent(shares.get((model, task))) for task in tasks)])


def _confusion(rows: Sequence[Row]) -> Iterator[str]:
    domains = sorted({row["domain"] for row in rows}, key=lambda name: (name == OUT_OF_SCOPE, name))
    choices = sorted({row["chosen"] for row in rows}, key=lambda name: (name == NONE, name))
    counts = {(row["domain"], row["chosen"]): row["count"] for row in rows}
    yield _line(["queries of, sent to", *choices])
    yield _line(["---", *["---:"] * len(choices)])
    for domain in domains:
        yield _line([f"`{domain}`", *(str(counts.get((domain, choice), "·")) for choice in choices)])


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share:.1f}".removesuffix(".0")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
