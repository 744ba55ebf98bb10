from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.fidelity.bench import Bench
from harness.fidelity.describe import describe, stacks_of
from harness.fidelity.distil import DistilConfig, Distiller, Run
from harness.fidelity.moments import collect_moments
from harness.fidelity.subject import take_weights
from meswitch.codecs import parse_codec


def test_trained_gains_bring_the_model_nearer(tiny_family: Callable[..., Any]) -> None:
    subject = tiny_family().subject("t", 0)
    bench = Bench(subject.model, subject.calibration, tokens_per_batch=64)
    described = describe(parse_codec("bitdelta"), stacks_of(subject, collect_moments(subject)))
    distiller = Distiller(subject, DistilConfig(steps=40, batch=8))
    losses = {}
    for over in ("none", "matrix", "rows"):
        trained = described if over == "none" else distiller.train(described, over)  # type: ignore[arg-type]
        take_weights(subject.model, subject.expert)
        take_weights(subject.model, {name: subject.base[name] + trained[name] for name in trained})
        losses[over] = bench.score().kl_per_token
    assert losses["rows"] < losses["matrix"] < losses["none"]


def test_training_remembers_nothing_of_the_one_before(tiny_family: Callable[..., Any]) -> None:
    subject = tiny_family().subject("t", 0)
    stacks = stacks_of(subject, collect_moments(subject))
    signs, bits = (describe(parse_codec(spec), stacks) for spec in ("rtn:bits=1", "rtn:bits=2"))
    distiller, other = (Distiller(subject, DistilConfig(steps=5, batch=8)) for _ in range(2))
    first = distiller.train(signs, "rows")
    distiller.train(bits, "rows")
    again, fresh = distiller.train(signs, "rows"), other.train(signs, "rows")
    for name, delta in first.items():
        assert torch.equal(again[name], delta)
        assert torch.equal(fresh[name], delta)
        assert not torch.equal(delta, signs[name])


@pytest.mark.gpu
def test_captured_steps_train_what_plain_ones_do(
    tiny_family: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_family().subject("t", 0)
    subject.model.cuda()
    base, expert = ({name: t.cuda() for name, t in part.items()} for part in (subject.base, subject.expert))
    subject = replace(subject, base=base, expert=expert)
    signs = describe(parse_codec("rtn:bits=1"), stacks_of(subject, collect_moments(subject)))
    found = {}
    for how in ("captured", "plain"):
        monkeypatch.setattr(Run, "captured", getattr(Run, how))
        found[how] = Distiller(subject, DistilConfig(steps=5, batch=4)).train(signs, "rows")
    for name, delta in found["plain"].items():
        torch.testing.assert_close(found["captured"][name], delta, rtol=1e-3, atol=1e-5)
        assert not torch.equal(delta, signs[name])
