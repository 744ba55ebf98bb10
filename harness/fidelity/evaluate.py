"""Scores experts under arms, expert by expert, until all is done or the time is up, and goes on where it stopped."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch

from harness.errors import UsageError
from harness.fidelity.allocated import parse_allocated
from harness.fidelity.allocator import AllocationConfig, Allocator
from harness.fidelity.arms import GROUPS, Arm
from harness.fidelity.bench import Bench, Scores
from harness.fidelity.describe import describe, sizes_of, stacks_of
from harness.fidelity.distil import DistilConfig, Distiller
from harness.fidelity.moments import Moments, collect_moments
from harness.fidelity.scores import Chosen, Record, append_record, keep_records, pack_records, record_path
from harness.fidelity.stacked import Stacks
from harness.fidelity.subject import Subject, take_delta, take_weights
from meswitch.codecs import Codec, OptionValue, format_spec, parse_codec

__all__ = ["Family", "FidelityOptions", "evaluate_fidelity", "experts_of"]

GAINS = (0.8, 0.9, 1.0, 1.1, 1.25)
"""Tried on validation items; the best of a parabola through the best three is taken."""


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
        scorer = Scorer(subject, stacks_of(subject, work.moments, half=half), test, validation, options)
        for arm in arms:
            if clock() > options.deadline_s:
                return
            report(f"{subject.task}, seed {subject.seed}: {arm.name}")
            for record in scorer.records(arm):
                append_record(record_path(options.output, subject.task, subject.seed), record)
            work.left.remove(arm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An expert as a codec keeps it, or several.

    Attributes:
        codec, options: as the record names them.
        codecs: of every linear; described: D̂ of every linear.
        chosen: how they were chosen, if they were.
    """

    codec: str
    options: Mapping[str, OptionValue]
    codecs: Mapping[str, Codec]
    described: Mapping[str, torch.Tensor]
    chosen: Chosen | None = None


class Scorer:
    """Scores one subject; its model holds whatever was scored last."""

    def __init__(
        self,
        subject: Subject,
        stacks: Stacks,
        test: Bench,
        validation: Bench,
        options: FidelityOptions,
    ) -> None:
        self.subject, self.stacks, self.options = subject, stacks, options
        self.test, self.validation = test, validation
        self.distiller: Distiller | None = None
        self.allocator: Allocator | None = None

    def records(self, arm: Arm) -> Iterator[Record]:
        """One record for each of the arm's gains."""
        subject = self.subject
        trained = subject.trained(arm.half)
        take_weights(subject.model, trained)
        if arm.control != "none":
            take_weights(subject.model, self.control(arm, trained))
            yield self.record(arm, 1.0, self.test.score(), matched=False)
            return
        kept = self.kept(arm)
        for gain in arm.gains:
            value = self.best_gain(kept.described) if gain is None else gain
            take_delta(subject.model, subject.base, kept.described, value)
            yield self.record(arm, value, self.test.score(), kept, matched=gain is None)

    def control(self, arm: Arm, trained: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """What a control puts in place of the expert's weights."""
        if arm.control == "base":
            return self.subject.base
        if arm.control == "expert":
            return trained
        return {name: trained[name].to(torch.bfloat16).to(torch.float32) for name in self.subject.linears}

    def kept(self, arm: Arm) -> Kept:
        """What the arm's codec makes of the expert, or those that are chosen for its linears."""
        kept = self.allocated(arm) or self.alike(arm)
        if arm.distilled == "none":
            return kept
        if self.distiller is None:
            self.distiller = Distiller(self.subject, self.options.distil)
        trained = self.distiller.train(kept.described, arm.distilled)
        take_weights(self.subject.model, self.subject.expert)
        return replace(kept, described=trained)

    def alike(self, arm: Arm) -> Kept:
        """One codec for all linears."""
        codec = parse_codec(arm.spec)
        return Kept(
            codec=codec.name,
            options=codec.options,
            codecs=dict.fromkeys(self.subject.linears, codec),
            described=describe(codec, self.stacks),
        )

    def allocated(self, arm: Arm) -> Kept | None:
        """A codec for each linear; `None` of an arm that names one for all."""
        wanted = parse_allocated(arm.spec)
        if wanted is None:
            return None
        if self.allocator is None:
            # its model holds the expert's weights now
            self.allocator = Allocator(
                self.subject,
                self.stacks,
                self.options.allocation,
                tokens_per_batch=self.options.tokens_per_batch,
            )
        allocation, search = self.allocator.allocate(wanted)
        return Kept(
            codec=wanted.name,
            options=wanted.options,
            codecs=allocation.codecs,
            described=self.allocator.described(allocation),
            chosen=Chosen(
                codecs={name: format_spec(codec.name, codec.options) for name, codec in allocation.codecs.items()},
                search=search,
            ),
        )

    def best_gain(self, described: Mapping[str, torch.Tensor]) -> float:
        """The gain with the least KL on validation items."""
        losses = []
        for gain in GAINS:
            take_delta(self.subject.model, self.subject.base, described, gain)
            losses.append(self.validation.score().kl_per_token)
        return parabola_minimum(GAINS, losses)

    def record(self, arm: Arm, gain: float, scores: Scores, kept: Kept | None = None, *, matched: bool) -> Record:
        """What is kept of some scores; `kept` is `None` of a control."""
        subject = self.subject
        bits, size = (None, None) if kept is None else sizes_of(kept.codecs, subject)
        return Record(
            family=subject.family,
            task=subject.task,
            seed=subject.seed,
            expert_hash=subject.expert_hash,
            arm=arm.name,
            codec=None if kept is None else kept.codec,
            options=None if kept is None else kept.options,
            gain=gain,
            gain_matched=matched,
            distilled=None if arm.distilled == "none" else arm.distilled,
            half=arm.half,
            bits_per_weight=bits,
            expert_bytes=size,
            tokens=tuple(scores.tokens.tolist()),
            nll=tuple(scores.nll.tolist()),
            kl=tuple(scores.kl.tolist()),
            agree=tuple(scores.agree.tolist()),
            right=tuple(scores.right.tolist()),
            chosen=None if kept is None else kept.chosen,
        )


def parabola_minimum(gains: Sequence[float], losses: Sequence[float]) -> float:
    """Where the parabola through the least loss and its neighbours is least, within `gains`."""
    best = min(range(len(losses)), key=losses.__getitem__)
    if best in (0, len(losses) - 1):
        return gains[best]
    (x0, x1, x2), (y0, y1, y2) = gains[best - 1 : best + 2], losses[best - 1 : best + 2]
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    return x1 if curvature <= 0 else min(max((x0 + x1) / 2 - left / (2 * curvature), x0), x2)


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
