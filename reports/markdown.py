"""The answer as a Markdown table, for a README or a pull request."""

from reports.answer import Card, answer_cards
from reports.headline import caveat, headline, subject
from reports.source import RunSource
from reports.verdict import run_verdict

__all__ = ["run_markdown"]


def run_markdown(source: RunSource) -> str:
    """A heading line, one table row for each comparison, and the verdict with its reasons."""
    verdict = run_verdict(source.summary)
    head = ["", source.treatment or "arm", *([source.baseline] if source.baseline else []), "what it says"]
    lines = [f"**{_escape(headline(source))}**", "", _escape(subject(source)), ""]
    lines += [_line(head), _line(["---"] * len(head))]
    for card in answer_cards(source):
        lines += _card_lines(card, with_baseline=source.baseline is not None, claims=verdict.status == "valid")
    note = caveat(source)
    lines += ["", f"{verdict.title}: {verdict.text}" + "".join(f" {reason}." for reason in verdict.reasons)]
    if note:
        lines += ["", _escape(note)]
    return "\n".join([*lines, ""])


def _card_lines(card: Card, *, with_baseline: bool, claims: bool) -> list[str]:
    """A row for each group of the card; of a run that is not valid, without what it would claim."""
    lines = []
    for group in card.groups:
        cells = {row.kind: f"{row.value} {row.interval}".strip() for row in group.rows}
        title = f"{card.title}, {group.title}" if group.title else card.title
        values = [cells.get("treatment", ""), *([cells.get("baseline", "")] if with_baseline else [])]
        lines.append(_line([title, *values, group.claim.text if claims else ""]))
    return lines


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
    """`text` without what would start a table cell, a tag or a new line in Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
