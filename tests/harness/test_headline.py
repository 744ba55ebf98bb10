import pytest

from harness.aggregation import summarise
from harness.drivers.fake import FakePlan
from harness.headline import build_headline
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
def arms(run_arms, make_stats):
    run, _ = run_arms(REQUESTS, {"meswitch": ours, "full-swap-disk": theirs}, stats=make_stats(base=MIB))
    return summarise(run.path).arms


def test_the_answer_comes_in_the_order_a_reader_asks(arms):
    assert build_headline(arms, FAMILY).sentences == (
        "Base and all 8 experts take 14.0 MiB as compressed deltas, 8 whole models 64.0 MiB: 4.6 times as much.",
        "The first token of an answer takes 10.0 ms (median), against 50.0 ms with full-swap-disk: 5.0 times faster.",
        "100.0% of all answers are right, against 0.0% with full-swap-disk.",
        # 40 right answers in a window of 390 ms
        "102.56 right answers a second arrive within their limits, against 0.00 with full-swap-disk.",
    )


def test_rows_carry_both_values_and_their_ratio(arms):
    rows = {row.metric: row for row in build_headline(arms, FAMILY).rows}
    assert rows["all_experts_bytes"].ratio == pytest.approx(14 / 64)
    assert rows["ttft_p50_s"].ratio == pytest.approx(0.2)
    assert (rows["switch_p50_s"].value, rows["switch_p50_s"].baseline) == (None, pytest.approx(0.030))
    assert rows["moved_bytes"].baseline == 40 * 100
    # nothing divides by zero
    assert rows["accuracy"].ratio is None


def test_a_run_of_one_arm_states_its_own_figures(arms):
    headline = build_headline({"meswitch": arms["meswitch"]}, {})
    assert headline.baseline is None
    assert headline.sentences[0] == "The first token of an answer takes 10.0 ms (median)."


def test_figures_that_hardly_differ_are_not_called_faster(arms):
    headline = build_headline({"one": arms["meswitch"], "two": arms["meswitch"]}, {})
    assert "about the same" in headline.sentences[0]


def test_a_run_without_arms_says_nothing():
    assert build_headline({}, FAMILY).sentences == ()
