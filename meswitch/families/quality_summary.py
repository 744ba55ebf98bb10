"""The published figures of a family's quality, from the item records alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict

from meswitch.families.quality import AnswerRecord, RouteRecord, wilson

__all__ = ["answer_rows", "confusion", "route_rows"]

NONE = "none of these"

Row = dict[str, object]


def answer_rows(records: Iterable[AnswerRecord]) -> list[Row]:
    """One row for each model and task: the share of right answers with its interval."""
    verdicts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for record in records:
        verdicts[record.model, record.task].append(record.correct)
    return [
        {"model": model, "task": task, "metric": "exact_match", **asdict(wilson(sum(right), len(right)))}
        for (model, task), right in verdicts.items()
    ]


def route_rows(records: Iterable[RouteRecord]) -> list[Row]:
    """One row for each scenario and domain, and one with domain `all` for each scenario."""
    verdicts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for record in records:
        for domain in (record.domain, "all"):
            verdicts[record.scenario, domain].append(record.chosen == record.wanted)
    return [
        {"scenario": scenario, "domain": domain, "metric": "router_accuracy", **asdict(wilson(sum(right), len(right)))}
        for (scenario, domain), right in sorted(verdicts.items())
    ]


def confusion(records: Iterable[RouteRecord], scenarios: Iterable[str] = ("all", "out-of-scope:all")) -> list[Row]:
    """Counts of (domain, chosen) among the records of `scenarios`; "none of these" is a choice like the others."""
    shown = set(scenarios)
    counts = Counter((r.domain, r.chosen or NONE) for r in records if r.scenario in shown)
    return [{"domain": domain, "chosen": chosen, "count": n} for (domain, chosen), n in sorted(counts.items())]
