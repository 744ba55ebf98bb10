"""The records of one expert under one arm after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from harness.fidelity.allocated import parse_allocated
from harness.fidelity.allocator import AllocationConfig, Allocator
from harness.fidelity.arms import Arm
from harness.fidelity.bench import Bench, Scores
from harness.fidelity.describe import describe, sizes_of
from harness.fidelity.distil import DistilConfig, Distiller
from harness.fidelity.recoding import RecodingConfig, train_codes
from harness.fidelity.scores import Chosen, Record
from harness.fidelity.stacked import Stacks
from harness.fidelity.subject import Subject, take_delta, take_weights
from meswitch.codecs import Codec, OptionValue, format_spec, parse_codec

__all__ = ["Scorer", "parabola_minimum"]

GAINS = (0.8, 0.9, 1.0, 1.1, 1.25)
"""Tried on validation items; the best of a parabola through the best three is taken."""


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
        *,
        distil: DistilConfig,
        recoding: RecodingConfig,
        allocation: AllocationConfig,
    ) -> None:
        self.subject, self.stacks = subject, stacks
        self.test, self.validation = test, validation
        self.distil, self.recoding, self.allocation = distil, recoding, allocation
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
        # trained codes are described already, by `alike`
        if arm.distilled == "none" or arm.distilled == "codes":
            return kept
        trained = self.distiller.train(kept.described, arm.distilled)
        take_weights(self.subject.model, self.subject.expert)
        return replace(kept, described=trained)

    @cached_property
    def distiller(self) -> Distiller:
        """Trains gains, and keeps the items that codes are trained on."""
        return Distiller(self.subject, self.distil)

    def alike(self, arm: Arm) -> Kept:
        """One codec for all linears."""
        codec = parse_codec(arm.spec)
        return Kept(
            codec=codec.name,
            options=codec.options,
            codecs=dict.fromkeys(self.subject.linears, codec),
            described=self.recoded(codec) if arm.distilled == "codes" else describe(codec, self.stacks),
        )

    def recoded(self, codec: Codec) -> Mapping[str, torch.Tensor]:
        """D̂ of every linear once its delta has been trained."""
        described = train_codes(self.distiller, codec, self.stacks.deltas, self.recoding)
        take_weights(self.subject.model, self.subject.expert)
        return described

    def allocated(self, arm: Arm) -> Kept | None:
        """A codec for each linear; `None` of an arm that names one for all."""
        wanted = parse_allocated(arm.spec)
        if wanted is None:
            return None
        if self.allocator is None:
            # its model holds the expert's weights now
            self.allocator = Allocator(
                self.subject, self.stacks, self.allocation, tokens_per_batch=self.test.tokens_per_batch
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
