from dataclasses import replace

import pytest

from harness.aggregation import summarise
from harness.drivers.fake import FakePlan
from harness.headline import build_headline, headline_sentences
from harness.summary import Estimate
from meswitch.core import Residency
from workloads.trace import TraceRequest

MS = 1_000_000
MIB = 2**20
FAMILY = {"experts": 8, "model_bytes": 8 * MIB, "delta_bytes": 6 * MIB}

REQUESTS = [
    TraceRequest(id=f"r{i}", t_ms=10 * i, prompt="p", expert="a", answer="ok", verifier="exact") for i in range(40)
]


def ours(request):
    return FakePlan(expert="a", first_token_ns=10 * MS)


def theirs(request):
    return FakePlan(
        expert="a", first_token_ns=50 * MS, switch_ns=30 * MS, source=Residency.DISK, moved_bytes=100, tokens=("no",)
    )


@pytest.fixture
def summary(run_arms, make_stats):
    stats = make_stats(base=8 * MIB, codes=2 * MIB)
    run, _ = run_arms(REQUESTS, {"meswitch": ours, "full-swap-disk": theirs}, stats=stats)
    return summarise(run.path)


def test_the_answer_comes_in_the_order_a_reader_asks(summary):
    # base 8 and the codes of all experts 6, of which the run loaded 2; whole models: 8 x 8
    assert build_headline(summary.arms, FAMILY, summary.comparison[0]).sentences == (
        "8 experts in 14.0 MiB, 4.6× less than as whole models (64.0 MiB)",
        "first token 5.0× sooner",
        "right answers 100.0 points more",
    )


def test_rows_carry_both_values_their_ratio_and_what_may_be_said(summary):
    rows = {row.metric: row for row in build_headline(summary.arms, FAMILY, summary.comparison[0]).rows}
    assert rows["all_experts_bytes"].ratio == pytest.approx(14 / 64)
    assert rows["all_experts_bytes"].claim == "4.6× less"
    assert rows["ttft_p50_s"].ratio == pytest.approx(0.2)
    assert rows["ttft_p50_s"].claim == "5.0× lower [5.0, 5.0]"
    assert (rows["switch_p50_s"].value, rows["switch_p50_s"].baseline) == (None, pytest.approx(0.030))
    assert rows["switch_p50_s"].claim == "no comparison: an arm did not switch"
    assert rows["moved_bytes"].baseline == 40 * 100
    # nothing divides by zero
    assert rows["accuracy"].ratio is None


def test_a_run_of_one_arm_states_its_own_figures(summary):
    headline = build_headline({"meswitch": summary.arms["meswitch"]}, {})
    assert headline.baseline is None
    assert headline.sentences == ("first token after 10.0 ms (median)", "100.0 % right answers")


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Estimate(value=0.5, low=0.4, high=0.7), "first token 2.0× sooner"),
        (Estimate(value=2.0, low=1.5, high=2.5), "first token 2.0× later"),
        (Estimate(value=0.5, low=0.2, high=1.1), "no significant difference in time to first token"),
        (Estimate(value=0.5, low=None, high=None), "too few values to compare time to first token"),
    ],
)
def test_a_difference_is_claimed_only_if_its_interval_excludes_none(summary, ratio, said):
    headline = build_headline(summary.arms, FAMILY, replace(summary.comparison[0], ttft_p50=ratio))
    assert headline.sentences[1] == said


def test_arms_that_are_the_same_are_not_called_equal(summary):
    arms = {"one": summary.arms["meswitch"], "two": summary.arms["meswitch"]}
    alike = replace(summary.comparison[0], accuracy_difference=Estimate(value=0.0, low=-0.01, high=0.01))
    assert build_headline(arms, FAMILY, alike).sentences[-1] == "no significant difference in right answers"


def test_of_an_invalid_run_nothing_is_said(summary):
    assert headline_sentences(summary) == summary.headline.sentences
    assert headline_sentences(replace(summary, valid=False)) == ("No answer: this run is not valid",)


def test_a_run_without_arms_says_so(summary):
    empty = build_headline({}, FAMILY)
    assert empty.sentences == ()
    assert headline_sentences(replace(summary, headline=empty)) == ("No answer: no arm ran",)
