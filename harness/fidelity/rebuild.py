"""`quality.json` and `summary.json` from the kept records alone: the same records give the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from harness.errors import RunFormatError
from harness.fidelity.bootstrap import RESAMPLES
from harness.fidelity.means import ArmMean, Budget, Comparison, Expert, budgets_of, comparisons_of, exact, group_of
from harness.fidelity.pairs import pairs_of
from harness.fidelity.scores import Record, read_records
from harness.results import write_atomic

__all__ = ["FidelityReport", "FidelityRow", "TaskEnds", "by_expert", "rebuild_fidelity"]

SCHEMA = "harness-fidelity-summary/2"
WORTH_SCORING = 0.10
"""An expert must answer this share more of its test items than the base for its accuracy to count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRow:
    """One arm of one expert. Likelihoods are in nats of an answer token; shares are of 1.

    Attributes:
        codec: its name, or that of a control; options: of the codec.
        gap_closed: (nll_base − nll) / (nll_base − nll_expert).
        kl: KL(expert ‖ arm); agreement: of the most probable next token.
        token_accuracy: tokens whose most probable one is the answer's; accuracy: answers of which all are.
    """

    family: str
    task: str
    seed: int
    codec: str
    options: Mapping[str, str | int | float | bool] | None
    bits_per_weight: float | None
    expert_bytes: int | None
    nll_base: float
    nll_expert: float
    nll: float
    gap_closed: float
    kl: float
    agreement: float
    token_accuracy: float
    accuracy_base: float
    accuracy_expert: float
    accuracy: float
    n: int
    arm: str
    gain: float
    gain_matched: bool
    distilled: str | None
    half: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnds:
    """The two ends of one task, mean over seeds; `scored` if the expert gains 10 points or more."""

    task: str
    seeds: int
    n: int
    tokens: int
    nll_base: float
    nll_expert: float
    token_accuracy_expert: float
    accuracy_base: float
    accuracy_expert: float
    scored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityReport:
    """All that is published of a family.

    Attributes:
        means: arms that every expert of the scored tasks has, fewest bits first.
        more_arms: the arms that every expert of the first seed has, over the experts that have them, if they are more.
        by_likelihood: over the tasks that are not scored by accuracy; pairs_by_likelihood: as `pairs`.
        half: arms of half-trained experts.
        comparisons: of every mean with the paper's 2-bit codes; pairs: of arms that tell what an ingredient is worth.
        budgets: what is best within some bits.
        comparisons_more_arms, budgets_more_arms: the same of `more_arms`; pairs_more_arms: those that `pairs` lacks.
    """

    schema: str = SCHEMA
    family: str
    tasks: tuple[TaskEnds, ...]
    means: tuple[ArmMean, ...]
    more_arms: tuple[ArmMean, ...]
    by_likelihood: tuple[ArmMean, ...]
    half: tuple[ArmMean, ...]
    comparisons: tuple[Comparison, ...]
    comparisons_more_arms: tuple[Comparison, ...]
    pairs: tuple[Comparison, ...]
    pairs_more_arms: tuple[Comparison, ...]
    pairs_by_likelihood: tuple[Comparison, ...]
    budgets: tuple[Budget, ...]
    budgets_more_arms: tuple[Budget, ...]
    methods: Mapping[str, str]


METHODS = {
    "interval": f"bootstrap, {RESAMPLES} resamples, seed 0: items within a task, the same for all seeds and arms, and "
    "seeds within a task; means of tasks count alike",
    "accuracy": "share of test items of which every answer token, its end included, is the most probable one after the "
    "right ones before it: the items that greedy decoding answers exactly so",
    "front": "no other arm at gain 1 has fewer bits and less KL",
}
_ROWS, _REPORT = TypeAdapter(tuple[FidelityRow, ...]), TypeAdapter(FidelityReport)


def rebuild_fidelity(output: Path) -> FidelityReport:
    """The report of all records below `output`; writes `quality.json` and `summary.json` there.

    Raises:
        RunFormatError: a record is damaged, or an expert's own record is missing.
        UsageError: there are none.
    """
    records = read_records(output)
    experts = by_expert(records)
    rows = tuple(row_of(r, experts[r.task, r.seed], r.half) for r in records)
    report = report_of(records[0].family, experts, rows)
    write_atomic(output / "quality.json", _ROWS.dump_json(rows, indent=1) + b"\n")
    write_atomic(output / "summary.json", _REPORT.dump_json(report, indent=1) + b"\n")
    return report


def by_expert(records: Sequence[Record]) -> dict[tuple[str, int], Expert]:
    """The records of each expert by their keys.

    Raises:
        RunFormatError: they are of several versions of an expert, or its own are missing.
    """
    experts: dict[tuple[str, int], Expert] = {}
    for record in records:
        experts.setdefault((record.task, record.seed), {})[record.key] = record
    for (task, seed), found in experts.items():
        if len({record.expert_hash for record in found.values()}) > 1:
            raise RunFormatError(f"the records of {task}-{seed} are of several experts; run harness quality again")
        for end in ("base", "expert"):
            if (end, 1.0) not in found:
                raise RunFormatError(f"the record of {end} is missing for {task}-{seed}; run harness quality again")
    return experts


def row_of(record: Record, expert: Expert, half: bool) -> FidelityRow:
    """One record as its row."""
    suffix = " half" if half else ""
    base, own = expert[f"base{suffix}", 1.0], expert[f"expert{suffix}", 1.0]
    tokens = sum(record.tokens)
    nll, nll_base, nll_expert = (sum(r.nll) / tokens for r in (record, base, own))
    return FidelityRow(
        family=record.family,
        task=record.task,
        seed=record.seed,
        codec=record.codec or record.arm.removesuffix(suffix),
        options=record.options,
        bits_per_weight=record.bits_per_weight,
        expert_bytes=record.expert_bytes,
        nll_base=nll_base,
        nll_expert=nll_expert,
        nll=nll,
        gap_closed=(nll_base - nll) / (nll_base - nll_expert),
        kl=sum(record.kl) / tokens,
        agreement=sum(record.agree) / tokens,
        token_accuracy=sum(record.right) / tokens,
        accuracy_base=float(exact(base).mean()),
        accuracy_expert=float(exact(own).mean()),
        accuracy=float(exact(record).mean()),
        n=len(record.tokens),
        arm=record.arm,
        gain=record.gain,
        gain_matched=record.gain_matched,
        distilled=record.distilled,
        half=record.half,
    )


def report_of(family: str, experts: Mapping[tuple[str, int], Expert], rows: Sequence[FidelityRow]) -> FidelityReport:
    """Means over the experts that have an arm."""
    tasks = tuple(ends_of(task, rows, experts) for task in dict.fromkeys(task for task, _ in experts))
    scored = [task.task for task in tasks if task.scored]
    everyone = [place for place in experts if place[0] in scored]
    own = group_of(experts, everyone, half=False)
    more = group_of(experts, having_arms_of_first_seed(experts, everyone), half=False)
    has_more = len(more.means) > len(own.means)
    hard = group_of(experts, [p for p in experts if p[0] not in scored], half=False)
    pairs = pairs_of(own)
    shown = {(pair.arm, pair.reference) for pair in pairs}
    halved = [place for place in everyone if ("expert half", 1.0) in experts[place]]
    return FidelityReport(
        family=family,
        tasks=tasks,
        means=own.means,
        more_arms=more.means if has_more else (),
        by_likelihood=hard.means,
        half=group_of(experts, halved, half=True).means,
        comparisons=comparisons_of(own),
        comparisons_more_arms=comparisons_of(more) if has_more else (),
        pairs=pairs,
        pairs_by_likelihood=pairs_of(hard),
        pairs_more_arms=tuple(pair for pair in pairs_of(more) if has_more and (pair.arm, pair.reference) not in shown),
        budgets=budgets_of(own),
        budgets_more_arms=budgets_of(more) if has_more else (),
        methods=METHODS,
    )


def having_arms_of_first_seed(
    experts: Mapping[tuple[str, int], Expert], places: Sequence[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Those of `places` that have every arm that all of the first seed have: a time limit may have cut others short."""
    if not places:
        return []
    first = min(seed for _, seed in places)
    shared = set.intersection(*(set(experts[place]) for place in places if place[1] == first))
    return [place for place in places if shared <= set(experts[place])]


def ends_of(task: str, rows: Sequence[FidelityRow], experts: Mapping[tuple[str, int], Expert]) -> TaskEnds:
    """Base and expert of a task."""
    own = [row for row in rows if row.task == task and row.arm == "expert"]
    record = experts[task, own[0].seed]["expert", 1.0]

    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in own]))

    return TaskEnds(
        task=task,
        seeds=len(own),
        n=own[0].n,
        tokens=sum(record.tokens),
        nll_base=mean("nll_base"),
        nll_expert=mean("nll_expert"),
        token_accuracy_expert=mean("token_accuracy"),
        accuracy_base=mean("accuracy_base"),
        accuracy_expert=mean("accuracy_expert"),
        scored=mean("accuracy_expert") - mean("accuracy_base") >= WORTH_SCORING,
    )
