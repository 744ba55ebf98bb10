"""Codecs for each linear of a tiny expert: within every budget, no worse than a search began with, repeatable."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.fidelity.allocated import CANDIDATES, WAYS, Allocated, Way
from harness.fidelity.allocator import AllocationConfig, Allocator
from harness.fidelity.arms import Arm, arms_of
from harness.fidelity.bench import Bench
from harness.fidelity.describe import stacks_of
from harness.fidelity.evaluate import FidelityOptions, evaluate_fidelity
from harness.fidelity.moments import collect_moments
from harness.fidelity.scores import read_file, record_path
from harness.fidelity.subject import Subject, take_weights
from meswitch.allocation import OWN, EvolutionConfig, measured_errors
from meswitch.codecs import decompress, parse_codec
from meswitch.errors import CapacityError

FEW = ("sparse-sign:group=8", "sparse-sign:group=4", "rtn:bits=2", "rtn:bits=4")
LEAST = 1.0
"""Bits of the cheapest of them where a row has 64 weights: 32 of codes and a step of 32."""


def config(**changes: Any) -> AllocationConfig:
    search = EvolutionConfig(
        **{"generations": 4, "offspring": 4, "survivors": (2, 1), "samples": (3, 8)} | changes  # type: ignore[arg-type]
    )
    return AllocationConfig(candidates=FEW, search=search)


def allocator_of(subject: Subject, made: AllocationConfig | None = None) -> Allocator:
    stacks = stacks_of(subject, collect_moments(subject))
    return Allocator(subject, stacks, made or config(), tokens_per_batch=64)


@pytest.fixture(scope="module")
def allocator(tiny_family: Callable[..., Any]) -> Allocator:
    return allocator_of(tiny_family().subject("t", 0))


def divergence(subject: Subject, codecs: Any, count: int) -> float:
    """KL to the expert on calibration items, by weights that are made and put one by one."""
    take_weights(subject.model, subject.expert)
    bench = Bench(subject.model, subject.calibration[:count], tokens_per_batch=64)
    for name, codec in codecs.items():
        delta = subject.expert[name] - subject.base[name]
        with torch.no_grad():
            subject.model.get_parameter(name).copy_(subject.base[name] + decompress(codec.compress(delta)))
    return bench.score().kl_per_token


@settings(max_examples=40, deadline=None)
@given(bits=st.floats(LEAST, 6.0), by=st.sampled_from(WAYS))
def test_no_budget_is_exceeded(allocator: Allocator, bits: float, by: Way) -> None:
    subject = allocator.subject
    allocation, _ = allocator.allocate(Allocated(bits=bits, by=by))
    assert set(allocation.codecs) == set(subject.linears)
    deltas = {name: subject.expert[name] - subject.base[name] for name in subject.linears}
    stored = sum(codec.compress(deltas[name]).nbytes for name, codec in allocation.codecs.items())
    assert 8 * stored <= bits * sum(delta.numel() for delta in deltas.values())


@pytest.mark.parametrize("bits", [1.3, 2.6])
def test_a_search_is_no_worse_than_knapsacks_and_single_codecs(allocator: Allocator, bits: float) -> None:
    subject = allocator.subject
    allocation, search = allocator.allocate(Allocated(bits=bits, by="search"))
    assert search is not None
    assert (search.generations, search.items) == (4, 8)
    assert search.found == pytest.approx(divergence(subject, allocation.codecs, 8), rel=1e-4)
    assert search.found <= search.start
    others = [allocator.allocate(Allocated(bits=bits, by=by))[0].codecs for by in WAYS if by != "search"]
    fitting = [spec for spec in FEW if allocator.nbytes((FEW.index(spec),) * 7) <= allocator.budget_bytes(bits)]
    others += [dict.fromkeys(subject.linears, parse_codec(spec)) for spec in fitting]
    found = [divergence(subject, codecs, 8) for codecs in others]
    assert search.start == pytest.approx(min(found), rel=1e-4)


def test_one_seed_gives_one_choice(allocator: Allocator, tiny_family: Callable[..., Any]) -> None:
    again = allocator_of(tiny_family().subject("t", 0))
    for by in WAYS:
        wanted = Allocated(bits=1.8, by=by)
        assert again.allocate(wanted) == allocator.allocate(wanted)


def test_generations_find_what_a_start_lacks(allocator: Allocator, tiny_family: Callable[..., Any]) -> None:
    wanted = Allocated(bits=1.8, by="search")
    longer = allocator_of(tiny_family().subject("t", 0), config(generations=12, offspring=8))
    _, short = allocator.allocate(wanted)
    _, found = longer.allocate(wanted)
    assert short is not None
    assert found is not None
    assert found.found < found.start == short.start


def test_one_linear_alone_leaves_all_others_exact(allocator: Allocator) -> None:
    subject, name = allocator.subject, allocator.subject.linears[3]
    # whatever was scored before
    allocator.fitness((0,) * 7, 8)
    found = allocator.kl({name: allocator.made[0][name]}, 8)
    assert found == pytest.approx(divergence(subject, {name: parse_codec(FEW[0])}, 8), rel=1e-4)
    assert allocator.fitness((OWN, OWN, OWN, 0, OWN, OWN, OWN), 8) == found


def test_what_is_measured_is_the_kl_of_each_linear_and_of_each_candidate(
    allocator: Allocator, tiny_family: Callable[..., Any]
) -> None:
    again = allocator_of(tiny_family().subject("t", 0))
    alone = [again.kl({name: again.made[0][name]}, 3) for name in again.choices]
    alike = [again.kl(made, 3) for made in again.made]
    assert allocator.measured == measured_errors(again.errors("weighted"), alone, alike, reference=0)


def test_errors_that_are_measured_add_up_to_what_each_codec_costs(allocator: Allocator) -> None:
    columns = zip(*allocator.errors("measured"), strict=True)
    for spec, column in zip(FEW, columns, strict=True):
        alike = dict.fromkeys(allocator.subject.linears, parse_codec(spec))
        assert sum(column) == pytest.approx(divergence(allocator.subject, alike, 3), rel=1e-4)


def test_within_a_linear_errors_of_outputs_say_what_is_not_measured(allocator: Allocator) -> None:
    subject = allocator.subject
    take_weights(subject.model, subject.expert)
    moments = collect_moments(subject)

    def ratio(name: str) -> float:
        """Error of the outputs by two bits, over that by groups of 8, channel by channel."""
        delta = subject.expert[name] - subject.base[name]
        errors = []
        for spec in ("rtn:bits=2", FEW[0]):
            codec = parse_codec(spec)
            gaps = (delta - decompress(codec.compress(delta))).square().sum(dim=0)
            errors.append(float((moments.square_sums[name] * gaps).sum()))
        return errors[0] / errors[1]

    rows = dict(zip(subject.linears, allocator.errors("measured"), strict=True))
    first, other = subject.linears[0], subject.linears[6]
    # the candidates' factors are those of all linears
    found = (rows[first][2] / rows[first][0]) / (rows[other][2] / rows[other][0])
    assert found == pytest.approx(ratio(first) / ratio(other), rel=1e-3)


def test_a_search_begins_with_one_codec_where_errors_lie(tiny_family: Callable[..., Any]) -> None:
    allocator = allocator_of(tiny_family().subject("t", 0), config(generations=0))
    # what all knapsacks believe: fewer bits are nearer
    allocator.choices = {
        name: tuple(replace(choice, error=choice.nbytes, plain_error=choice.nbytes) for choice in row)
        for name, row in allocator.choices.items()
    }
    allocator.measured = [[choice.error for choice in row] for row in allocator.choices.values()]
    bits = 8 * allocator.nbytes((FEW.index("rtn:bits=2"),) * 7) / allocator.weights
    allocation, _ = allocator.allocate(Allocated(bits=bits, by="search"))
    assert set(allocation.codecs.values()) == {parse_codec("rtn:bits=2")}


def test_too_small_a_budget_names_the_least(allocator: Allocator) -> None:
    for by in WAYS:
        with pytest.raises(CapacityError, match=r"at least 1 bits, what the cheapest candidates take, got 0\.5"):
            allocator.allocate(Allocated(bits=0.5, by=by))
    with pytest.raises(CapacityError, match=r"at least 1 bits, what the cheapest candidate takes, got 0\.5"):
        allocator.alike(0.5)


def test_arms_are_recorded_with_what_was_chosen_and_scored_once(
    tmp_path: Path, tiny_family: Callable[..., Any]
) -> None:
    arms = arms_of([Allocated(bits=1.8, by=by).spec for by in WAYS] + ["rtn:bits=1"])
    options = FidelityOptions(output=tmp_path, experts=(("t", 0),), arms=arms, allocation=config())
    said: list[str] = []
    assert evaluate_fidelity(tiny_family(), options, said.append)
    # ordered as groups are, whatever was asked for first
    assert [words.partition(": ")[2].partition(":")[0] for words in said[3:]] == ["rtn", *["allocated"] * 4]
    found = {record.key: record for record in read_file(record_path(tmp_path, "t", 0))}
    record, matched = found["allocated:bits=1.8,by=search", 1.0], found["allocated:bits=1.8,by=search", None]
    assert (record.codec, record.options) == ("allocated", {"bits": 1.8, "by": "search"})
    assert record.bits_per_weight is not None
    assert 1.0 < record.bits_per_weight <= 1.8
    assert record.chosen is not None
    assert record.chosen.search is not None
    assert matched.chosen == record.chosen
    assert found["rtn:bits=1", 1.0].chosen is None
    assert found["allocated:bits=1.8,by=plain", 1.0].chosen.search is None  # type: ignore[union-attr]
    subject = tiny_family().subject("t", 0)
    bench = Bench(subject.model, subject.test, tokens_per_batch=64)
    divergence(subject, {name: parse_codec(spec) for name, spec in record.chosen.codecs.items()}, 1)
    assert bench.score().kl.sum() == pytest.approx(sum(record.kl), rel=1e-3)
    said.clear()
    assert evaluate_fidelity(tiny_family(), options, said.append)
    assert said == []


def test_default_candidates_describe_a_small_expert(tiny_family: Callable[..., Any]) -> None:
    subject = tiny_family().subject("t", 0)
    allocator = allocator_of(subject, AllocationConfig())
    allocation, search = allocator.allocate(Allocated(bits=2.0, by="search"))
    assert search is not None
    # there are eight calibration items, and no more
    assert search.items == 8
    assert {codec.name for codec in allocation.codecs.values()} <= {spec.partition(":")[0] for spec in CANDIDATES}


def test_arms_with_trained_gains_are_of_what_was_chosen(tmp_path: Path, tiny_family: Callable[..., Any]) -> None:
    spec = Allocated(bits=1.8, by="plain").spec
    arms = (*arms_of(["rtn:bits=1"]), Arm(spec=spec, group="allocation", distilled="rows", gains=(1.0,)))
    options = FidelityOptions(output=tmp_path, experts=(("t", 0),), arms=arms, allocation=config())
    assert evaluate_fidelity(tiny_family(), options, lambda words: None)
    record = read_file(record_path(tmp_path, "t", 0))[-1]
    assert (record.arm, record.distilled) == (f"{spec} distilled=rows", "rows")
    assert record.chosen is not None
