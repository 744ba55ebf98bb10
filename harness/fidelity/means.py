"""Means of arms over experts, with intervals, and what beats what at equal bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.fidelity.bootstrap import Draws, TaskScores, resampled
from harness.fidelity.scores import Record
from harness.summary import Estimate

__all__ = [
    "REFERENCE",
    "ArmMean",
    "Budget",
    "Comparison",
    "Expert",
    "Group",
    "budgets_of",
    "comparisons_of",
    "exact",
    "group_of",
    "label_of",
]

REFERENCE = "salient:bits=2,channels=8,step=mse"
"""The paper's 2 bits with salient channels and a least-squares step."""

BUDGETS = (0.4, 0.6, 0.8, 1.0, 1.1, 1.6, 2.1, 2.3, 4.3, 8.3)
"""Bits of a linear weight that an arm may take."""

Key = tuple[str, float | None]
Expert = dict[Key, Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmMean:
    """One arm over several tasks and all their seeds, each task alike, with 95 % intervals.

    Attributes:
        bits_per_weight, expert_bytes: the most of any expert; they differ where codecs are chosen for each.
    """

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
class Budget:
    """What is best within some bits of a linear weight.

    Attributes:
        best: the arm of the least KL among codecs at gain 1, trained gains included.
        not_told_apart: the others within the budget whose KL may be as small: the interval of the difference holds 0.
    """

    bits: float
    best: str
    kl: Estimate
    not_told_apart: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Arms that some experts share: their means, fewest bits first, and the resamples behind them."""

    means: tuple[ArmMean, ...]
    draws: Mapping[str, Draws]


def label_of(arm: str, gain: float | None, *, with_gain: bool = True) -> str:
    """An arm with its gain, as tables name it."""
    if gain is None:
        return f"{arm}, gain-matched"
    return f"{arm} × {gain:g}" if with_gain and gain != 1.0 else arm


def exact(record: Record) -> NDArray[np.float64]:
    """1 for each item of which every token is right, else 0."""
    return np.asarray([r == t for r, t in zip(record.right, record.tokens, strict=True)], dtype=np.float64)


def group_of(experts: Mapping[tuple[str, int], Expert], places: Sequence[tuple[str, int]], *, half: bool) -> Group:
    """The arms that all of `places` have."""
    if not places:
        return Group(means=(), draws={})
    shared = [key for key in experts[places[0]] if all(key in experts[place] for place in places)]
    keys = [key for key in shared if experts[places[0]][key].half == half]
    keys.sort(key=lambda key: (experts[places[0]][key].bits_per_weight or 0.0, key[0], key[1] or 0.0))
    if not keys:
        return Group(means=(), draws={})
    tasks = dict.fromkeys(task for task, _ in places)
    scores = [task_scores([experts[place] for place in places if place[0] == task], keys, half) for task in tasks]
    draws = resampled(scores)
    means = [arm_mean(key, i, [experts[place][key] for place in places], draws) for i, key in enumerate(keys)]
    return Group(means=tuple(with_front(means)), draws=draws)


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
        bits_per_weight=max((r.bits_per_weight for r in records if r.bits_per_weight is not None), default=None),
        expert_bytes=max((r.expert_bytes for r in records if r.expert_bytes is not None), default=None),
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


def comparisons_of(group: Group) -> tuple[Comparison, ...]:
    """Every codec beside the reference; gain-matched ones beside the gain-matched reference too."""
    places = {(mean.arm, mean.gain): i for i, mean in enumerate(group.means)}
    pairs = [
        (i, places[REFERENCE, gain])
        for i, mean in enumerate(group.means)
        for gain in ((1.0, None) if mean.gain_matched else (1.0,))
        if mean.bits_per_weight is not None and (REFERENCE, gain) in places
    ]
    return tuple(
        Comparison(
            arm=label_of(group.means[i].arm, group.means[i].gain),
            reference=label_of(REFERENCE, group.means[j].gain),
            kl_ratio=group.draws["kl"].ratio(i, j),
            agreement_change=group.draws["agreement"].difference(i, j),
            accuracy_change=group.draws["accuracy"].difference(i, j),
        )
        for i, j in pairs
    )


def budgets_of(group: Group) -> tuple[Budget, ...]:
    """The best arm within each budget in which there is one."""
    codecs = [i for i, m in enumerate(group.means) if m.bits_per_weight is not None and m.gain == 1.0]
    found = []
    for bits in BUDGETS:
        within = [i for i in codecs if (group.means[i].bits_per_weight or 0) <= bits]
        if not within:
            continue
        best = min(within, key=lambda i: group.means[i].kl.value)
        # not a ratio: what is nearly exact may have a KL of 0
        gaps = {i: group.draws["kl"].difference(i, best) for i in within if i != best}
        found.append(
            Budget(
                bits=bits,
                best=group.means[best].arm,
                kl=group.means[best].kl,
                not_told_apart=tuple(group.means[i].arm for i, gap in gaps.items() if gap.low is None or gap.low <= 0),
            )
        )
    return tuple(found)
