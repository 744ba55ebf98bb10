from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.fidelity.bench import Bench
from harness.fidelity.describe import describe, stacks_of
from harness.fidelity.distil import DistilConfig, Distiller
from harness.fidelity.moments import collect_moments
from harness.fidelity.recoding import RecodingConfig, train_codes
from harness.fidelity.subject import Subject, take_delta, take_weights
from meswitch.codecs import decompress, parse_codec

FOUR = parse_codec("sparse-sign:group=4")


@pytest.fixture
def subject(tiny_family: Callable[..., Any]) -> Subject:
    made: Subject = tiny_family().subject("t", 0)
    return made


def trained(subject: Subject, config: RecodingConfig) -> dict[str, torch.Tensor]:
    take_weights(subject.model, subject.expert)
    deltas = stacks_of(subject, collect_moments(subject)).deltas
    return train_codes(Distiller(subject, DistilConfig(batch=8)), FOUR, deltas, config)


def test_trained_codes_bring_the_model_nearer_than_trained_gains(subject: Subject) -> None:
    bench = Bench(subject.model, subject.calibration, tokens_per_batch=64)
    plain = describe(FOUR, stacks_of(subject, collect_moments(subject)))
    gains = Distiller(subject, DistilConfig(steps=40, batch=8)).train(plain, "rows")
    codes = trained(subject, RecodingConfig(steps=40, learning_rate=0.05))
    losses = []
    for described in (plain, gains, codes):
        take_delta(subject.model, subject.base, described)
        losses.append(bench.score().kl_per_token)
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.5 * losses[0]


def test_what_is_trained_is_still_of_the_codec(subject: Subject) -> None:
    for delta in trained(subject, RecodingConfig(steps=10, learning_rate=0.05)).values():
        assert bool((delta.unflatten(1, (-1, 4)) != 0).sum(dim=2).eq(1).all())
        torch.testing.assert_close(decompress(FOUR.compress(delta)), delta)


def test_without_a_step_codes_are_those_of_the_delta(subject: Subject) -> None:
    plain = describe(FOUR, stacks_of(subject, collect_moments(subject)))
    for name, delta in trained(subject, RecodingConfig(steps=0)).items():
        torch.testing.assert_close(delta, plain[name])


def test_a_row_that_was_not_changed_stays_the_bases(subject: Subject) -> None:
    name = subject.linears[0]
    expert = {**subject.expert, name: subject.expert[name].clone()}
    expert[name][1] = subject.base[name][1]
    subject = replace(subject, expert=expert)
    found = trained(subject, RecodingConfig(steps=5, learning_rate=0.05))[name]
    assert not bool(found[1].any())
    assert bool(found[0].any())


def test_codes_of_a_codec_that_mixes_rows_are_refused(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"describes rows one by one, got lowrank$"):
        train_codes(Distiller(subject, DistilConfig(batch=8)), parse_codec("lowrank:rank=1"), {}, RecodingConfig())


@pytest.mark.gpu
def test_codes_are_trained_on_a_gpu(subject: Subject) -> None:
    subject.model.cuda()
    base, expert = ({name: t.cuda() for name, t in part.items()} for part in (subject.base, subject.expert))
    subject = replace(subject, base=base, expert=expert)
    test_trained_codes_bring_the_model_nearer_than_trained_gains(subject)
