"""`quality.json` and `summary.json` from the kept records alone: the same records give the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from harness.errors import RunFormatError
from harness.fidelity.bootstrap import RESAMPLES, Draws, TaskScores, resampled
from harness.fidelity.scores import Record, read_records
from harness.results import write_atomic
from harness.summary import Estimate

__all__ = ["ArmMean", "Comparison", "FidelityReport", "FidelityRow", "TaskEnds", "label_of", "rebuild_fidelity"]

SCHEMA = "harness-fidelity-summary/1"
WORTH_SCORING = 0.10
"""An expert must answer this share more of its test items than the base for its accuracy to count."""

Key = tuple[str, float | None]


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
class ArmMean:
    """One arm over several tasks and all their seeds, each task alike, with 95 % intervals."""

    arm: str
    gain: float | None
    gain_matched: bool
    mean_gain: float
    experts: int
    bits_per_weight: float | None
    expert_bytes: int | None
    kl: Estimate
    agreement: Estimate
    token_accuracy: Estimate
    accuracy: Estimate
    accuracy_change: Estimate
    gap_closed: Estimate
    on_front: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two arms over the same items and seeds: KL of one over that of the other, and differences."""

    arm: str
    reference: str
    kl_ratio: Estimate
    agreement_change: Estimate
    accuracy_change: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityReport:
    """All that is published of a family.

    Attributes:
        means: arms that every expert of the scored tasks has, fewest bits first.
        partial: arms that only the first seeds have, over those.
        by_likelihood: over the tasks that are not scored by accuracy.
        half: arms of half-trained experts.
        comparisons: of every mean with the paper's 2-bit recipe.
    """

    schema: str = SCHEMA
    family: str
    tasks: tuple[TaskEnds, ...]
    means: tuple[ArmMean, ...]
    partial: tuple[ArmMean, ...]
    by_likelihood: tuple[ArmMean, ...]
    half: tuple[ArmMean, ...]
    comparisons: tuple[Comparison, ...]
    methods: Mapping[str, str]


REFERENCE = "salient:bits=2,channels=8,step=mse"
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


Expert = dict[Key, Record]


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


def label_of(arm: str, gain: float | None, *, with_gain: bool = True) -> str:
    """An arm with its gain, as tables name it."""
    if gain is None:
        return f"{arm}, gain-matched"
    return f"{arm} × {gain:g}" if with_gain and gain != 1.0 else arm


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


def exact(record: Record) -> NDArray[np.float64]:
    """1 for each item of which every token is right, else 0."""
    return np.asarray([r == t for r, t in zip(record.right, record.tokens, strict=True)], dtype=np.float64)


def report_of(family: str, experts: Mapping[tuple[str, int], Expert], rows: Sequence[FidelityRow]) -> FidelityReport:
    """Means over the experts that have an arm."""
    tasks = tuple(ends_of(task, rows, experts) for task in dict.fromkeys(task for task, _ in experts))
    scored = [task.task for task in tasks if task.scored]
    hard = [task.task for task in tasks if not task.scored]
    first = min(seed for _, seed in experts)
    groups = {
        "means": [place for place in experts if place[0] in scored],
        "partial": [place for place in experts if place[0] in scored and place[1] == first],
        "by_likelihood": [place for place in experts if place[0] in hard],
    }
    found = {name: means_of(experts, places, half=False) for name, places in groups.items()}
    whole = {(mean.arm, mean.gain) for mean in found["means"][0]}
    halved = [place for place in experts if place[0] in scored and ("expert half", 1.0) in experts[place]]
    means, draws = found["means"]
    return FidelityReport(
        family=family,
        tasks=tasks,
        means=tuple(means),
        partial=tuple(mean for mean in found["partial"][0] if (mean.arm, mean.gain) not in whole),
        by_likelihood=tuple(found["by_likelihood"][0]),
        half=tuple(means_of(experts, halved, half=True)[0]),
        comparisons=tuple(comparisons_of(means, draws)),
        methods=METHODS,
    )


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


def means_of(
    experts: Mapping[tuple[str, int], Expert], places: Sequence[tuple[str, int]], *, half: bool
) -> tuple[list[ArmMean], Mapping[str, Draws]]:
    """The arms that all of `places` have, fewest bits first, and their resamples in the same order."""
    if not places:
        return [], {}
    shared = [key for key in experts[places[0]] if all(key in experts[place] for place in places)]
    keys = [key for key in shared if experts[places[0]][key].half == half]
    keys.sort(key=lambda key: (experts[places[0]][key].bits_per_weight or 0.0, key[0], key[1] or 0.0))
    if not keys:
        return [], {}
    tasks = dict.fromkeys(task for task, _ in places)
    scores = [task_scores([experts[place] for place in places if place[0] == task], keys, half) for task in tasks]
    draws = resampled(scores)
    means = [arm_mean(key, i, [experts[place][key] for place in places], draws) for i, key in enumerate(keys)]
    return with_front(means), draws


def task_scores(experts: Sequence[Expert], keys: Sequence[Key], half: bool) -> TaskScores:
    """The scores of one task's experts, which are of different seeds."""
    suffix = " half" if half else ""

    def stacked(name: str) -> NDArray[np.float64]:
        return np.asarray([[getattr(expert[key], name) for key in keys] for expert in experts], dtype=np.float64)

    def end(name: str, key: Key) -> NDArray[np.float64]:
        return np.asarray([getattr(expert[key], name) for expert in experts], dtype=np.float64)

    tokens = np.asarray(experts[0][keys[0]].tokens, dtype=np.float64)
    right = stacked("right")
    own = end("right", (f"expert{suffix}", 1.0))
    return TaskScores(
        tokens=tokens,
        nll=stacked("nll"),
        kl=stacked("kl"),
        agree=stacked("agree"),
        right=right,
        exact=(right == tokens).astype(np.float64),
        nll_base=end("nll", (f"base{suffix}", 1.0)),
        nll_expert=end("nll", (f"expert{suffix}", 1.0)),
        exact_expert=(own == tokens).astype(np.float64),
    )


def arm_mean(key: Key, place: int, records: Sequence[Record], draws: Mapping[str, Draws]) -> ArmMean:
    """One arm's mean."""
    return ArmMean(
        arm=key[0],
        gain=key[1],
        gain_matched=key[1] is None,
        mean_gain=float(np.mean([record.gain for record in records])),
        experts=len(records),
        bits_per_weight=records[0].bits_per_weight,
        expert_bytes=records[0].expert_bytes,
        **{name: drawn.estimate(place) for name, drawn in draws.items()},
        on_front=False,
    )


def with_front(means: Sequence[ArmMean]) -> list[ArmMean]:
    """The same means, with those marked that no other beats in both bits and KL."""
    plain = [m for m in means if m.gain == 1.0 and m.bits_per_weight is not None]

    def beaten(mean: ArmMean) -> bool:
        return any(
            (other.bits_per_weight or 0) <= (mean.bits_per_weight or 0) and other.kl.value < mean.kl.value
            for other in plain
        )

    return [replace(mean, on_front=mean in plain and not beaten(mean)) for mean in means]


def comparisons_of(means: Sequence[ArmMean], draws: Mapping[str, Draws]) -> list[Comparison]:
    """Every arm beside the reference; none if it was not measured."""
    places = {(mean.arm, mean.gain): i for i, mean in enumerate(means)}
    reference = places.get((REFERENCE, 1.0))
    if reference is None:
        return []
    return [
        Comparison(
            arm=label_of(mean.arm, mean.gain),
            reference=REFERENCE,
            kl_ratio=draws["kl"].ratio(i, reference),
            agreement_change=draws["agreement"].difference(i, reference),
            accuracy_change=draws["accuracy"].difference(i, reference),
        )
        for i, mean in enumerate(means)
        if mean.bits_per_weight is not None
    ]
