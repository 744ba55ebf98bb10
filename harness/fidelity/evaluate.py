"""Scores experts under arms, expert by expert, until all is done or the time is up, and goes on where it stopped."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.errors import UsageError
from harness.fidelity.allocator import AllocationConfig
from harness.fidelity.arms import DEFAULT_ARMS, GROUPS, Arm
from harness.fidelity.bench import Bench
from harness.fidelity.describe import stacks_of
from harness.fidelity.distil import DistilConfig
from harness.fidelity.moments import Moments, collect_moments
from harness.fidelity.recoding import RecodingConfig
from harness.fidelity.scorer import Scorer
from harness.fidelity.scores import Record, append_record, keep_records, pack_records, record_path
from harness.fidelity.subject import Subject, take_weights
from meswitch.errors import CapacityError

__all__ = ["Family", "FidelityOptions", "evaluate_fidelity", "experts_of"]


class Family(Protocol):
    """Where subjects come from."""

    def subject(self, task: str, seed: int) -> Subject:
        """The expert of a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityOptions:
    """What is scored, and how.

    Attributes:
        output: the folder of `records/`.
        experts: (task, seed), the most needed first.
        arms: what each is scored under.
        deadline_s: on the monotonic clock; nothing is begun after it.
        tokens_per_batch: padded tokens that go through the model at once.
    """

    output: Path
    experts: tuple[tuple[str, int], ...]
    arms: tuple[Arm, ...]
    deadline_s: float = float("inf")
    tokens_per_batch: int = 4096
    distil: DistilConfig = field(default_factory=DistilConfig)
    recoding: RecodingConfig = field(default_factory=RecodingConfig)
    allocation: AllocationConfig = field(default_factory=AllocationConfig)


@dataclass(slots=True, kw_only=True)
class Work:
    """A subject on its way: what is known of it, and the arms that are left."""

    subject: Subject
    moments: Moments
    left: list[Arm]


def evaluate_fidelity(
    family: Family, options: FidelityOptions, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> bool:
    """Whether every arm of every expert is scored now; records are added to those that are there.

    Raises:
        MeswitchError, HarnessError: a family, a task or kept records are unknown or damaged.
    """
    works = list(prepared(family, options, report, clock))
    for group in GROUPS:
        for work in works:
            score_group(work, group, options, report, clock)
    done = len(works) == len(options.experts) and not any(work.left for work in works)
    if done:
        pack_records(options.output, options.experts)
    return done


def prepared(
    family: Family,
    options: FidelityOptions,
    report: Callable[[str], None],
    clock: Callable[[], float],
) -> Iterator[Work]:
    """The experts with what is left to do, as long as there is time."""
    for task, seed in options.experts:
        if clock() > options.deadline_s:
            return
        subject = family.subject(task, seed)
        arms = [arm for arm in options.arms if not arm.half or subject.half is not None]
        left = missing(arms, keep_records(record_path(options.output, task, seed), subject.expert_hash))
        if not left:
            yield Work(subject=subject, moments=Moments(second={}, square_sums={}), left=[])
            continue
        report(f"calibrating {task}, seed {seed}")
        yield Work(subject=subject, moments=collect_moments(subject), left=left)


def missing(arms: Iterable[Arm], kept: Sequence[Record]) -> list[Arm]:
    """The arms that lack a record for any of their gains."""
    known = {record.key for record in kept}
    return [arm for arm in arms if any((arm.name, gain) not in known for gain in arm.gains)]


def score_group(
    work: Work,
    group: str,
    options: FidelityOptions,
    report: Callable[[str], None],
    clock: Callable[[], float],
) -> None:
    """Score the arms of one group that are left, as long as there is time."""
    subject = work.subject
    for half in (False, True):
        arms = [arm for arm in work.left if arm.group == group and arm.half == half]
        if not arms or clock() > options.deadline_s:
            continue
        take_weights(subject.model, subject.trained(half))
        test = Bench(subject.model, subject.test, tokens_per_batch=options.tokens_per_batch)
        validation = Bench(subject.model, subject.validation, tokens_per_batch=options.tokens_per_batch)
        stacks = stacks_of(subject, work.moments, half=half)
        scorer = Scorer(
            subject,
            stacks,
            test,
            validation,
            distil=options.distil,
            recoding=options.recoding,
            allocation=options.allocation,
        )
        for arm in arms:
            if clock() > options.deadline_s:
                return
            report(f"{subject.task}, seed {subject.seed}: {arm.name}")
            try:
                for record in scorer.records(arm):
                    append_record(record_path(options.output, subject.task, subject.seed), record)
            except CapacityError as error:
                # nobody asked for this budget: narrow layers may spend more on their steps alone
                if arm not in DEFAULT_ARMS:
                    raise
                report(f"{subject.task}, seed {subject.seed}: {arm.name} is left out: {error}")
            work.left.remove(arm)


def experts_of(tasks: Sequence[str], seeds: Sequence[int], named: Sequence[str] = ()) -> tuple[tuple[str, int], ...]:
    """All tasks of the first seed, then of the next: what a time limit cuts off are whole seeds. Or those `named`.

    Args:
        named: `TASK-SEED`.

    Raises:
        UsageError: an expert is named otherwise, or is not among these tasks and seeds.
    """
    known = {f"{task}-{seed}": (task, seed) for seed in seeds for task in tasks}
    for name in named:
        if name not in known:
            raise UsageError(
                f"--expert must be TASK-SEED of {', '.join(tasks)} and a seed below {len(seeds)}, got {name!r}"
            )
    return tuple(known[name] for name in dict.fromkeys(named)) if named else tuple(known.values())
