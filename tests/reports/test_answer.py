"""The first screen: what the four cards and the headline say."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import RequestRecord
from harness.weights import whole_models_bytes
from reports.answer import Card, answer_cards
from reports.build import build_report
from reports.headline import caveat, headline, subject
from reports.rows import expert_headings, metric_rows
from reports.source import RunSource, read_run

MIB = 1024**2


@pytest.fixture
def source(make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]) -> RunSource:
    return read_run(make_run("both", both_arms))


def card(source: RunSource, key: str) -> Card:
    return next(card for card in answer_cards(source) if card.key == key)


def test_memory_stands_against_whole_models_and_the_baselines_budget(source: RunSource) -> None:
    memory = card(source, "memory")
    # base 8 + codes 6 + dense cache 16 + router 3; whole models: 8 x 8 + router 3
    assert whole_models_bytes(source.arm("meswitch"), source.manifest.family) == 67 * MIB
    assert memory.figure == "33.0 MiB"
    assert [row.value for row in memory.groups[0].rows] == ["33.0 MiB", "67.0 MiB", "35.0 MiB"]
    assert memory.groups[0].claim.text == "2.0× less than 8 whole models"
    assert memory.groups[1].rows[0].value == "17.0 MiB"
    assert memory.note == "Memory budget of every arm: 40.0 MiB."


def test_memory_counts_the_codes_of_all_experts_even_if_the_run_loaded_few(
    make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]
) -> None:
    family = {"delta_bytes": 10 * MIB, "delta_bytes_linears": 9 * MIB, "codec": "rtn:bits=2,step=mse"}
    memory = card(read_run(make_run("few", both_arms, **family)), "memory")
    # codes 10 instead of the 6 that were loaded
    assert memory.figure == "37.0 MiB"
    assert "this run loaded 6.00 MiB" in memory.note
    assert memory.note.endswith("Deltas by rtn:bits=2: 9.00 MiB of linear weights, 10.0 MiB in all.")


def test_run_without_a_gpu_says_that_it_says_nothing_about_one(
    make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]
) -> None:
    assert caveat(read_run(make_run("cpu", both_arms, note="small"))).startswith("pocket: small; timings on a CPU")


def test_bars_of_a_group_share_one_scale(source: RunSource) -> None:
    shares = [sum(share for _, share in row.segments) for row in card(source, "memory").groups[0].rows]
    assert shares == pytest.approx([33 / 67, 1.0, 35 / 67])


def test_every_card_has_the_baseline_beside_the_treatment(source: RunSource) -> None:
    for one in answer_cards(source):
        assert {"treatment", "baseline"} <= {row.kind for row in one.groups[0].rows}, one.key


def test_headline_claims_only_what_the_intervals_allow(source: RunSource) -> None:
    text = headline(source)
    assert text.startswith("8 experts in 33.0 MiB, 2.0× less than as whole models")
    assert "first token" in text
    assert "sooner" in text
    assert text.endswith("no significant difference in right answers")
    assert subject(source) == "pocket: 8 experts served by meswitch, against full-swap-disk"


def test_headline_is_honest_when_the_treatment_loses(
    make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]
) -> None:
    other = {"meswitch": "full-swap-disk", "full-swap-disk": "meswitch"}
    swapped = sorted((replace(r, arm=other[r.arm]) for r in both_arms), key=lambda r: r.arm != "meswitch")
    text = headline(read_run(make_run("swapped", swapped)))
    assert "later" in text
    assert "slower" in text
    assert "sooner" not in text


def test_few_switches_are_called_few_and_not_alike(
    make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]
) -> None:
    first = [r.index for r in both_arms if r.arm == "meswitch" and r.switch is not None][:2]
    records = [r if r.index in first else replace(r, switch=None, residency="resident") for r in both_arms]
    assert "too few values to compare switch times" in headline(read_run(make_run("rare", records)))


def test_invalid_run_has_no_answer(make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]) -> None:
    source = read_run(make_run("partial", both_arms, status="partial"))
    assert headline(source) == "No answer: this run is not valid"


def test_single_arm_says_what_it_did_and_compares_nothing(
    make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]
) -> None:
    source = read_run(make_run("single", [r for r in both_arms if r.arm == "meswitch"]))
    text = headline(source)
    assert "first token after" in text
    assert "sooner" not in text
    assert subject(source).endswith("no baseline beside it")


def test_run_without_switches_says_none(make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]) -> None:
    records = [replace(r, switch=None, residency="resident") for r in both_arms]
    switch = card(read_run(make_run("still", records)), "switch")
    assert switch.figure == "none"
    assert switch.groups[0].claim.text == "no comparison: an arm did not switch"


def test_a_family_of_shapes_is_named_so_and_has_no_column_of_answers(
    make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]
) -> None:
    path = make_run("shapes", both_arms, kind="shapes only", note="random weights")
    source = read_run(path)
    assert subject(source).startswith("pocket (shapes only): 8 experts served by meswitch")
    assert [card.key for card in answer_cards(source)] == ["memory", "ttft", "switch"]
    assert "right answers" not in "; ".join(source.summary.headline.sentences)
    assert "accuracy" not in {row.metric for row in source.summary.headline.rows}
    labels = {row.label for row in metric_rows(source)}
    assert not labels & {"right answers", "router right", "correct goodput"}
    assert expert_headings(source) == ("requests", "TTFT p50", "switches")
    assert "Wrong answers" not in build_report(path).read_text()
