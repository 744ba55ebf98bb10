"""Golden figures: three requests whose every stamp is planned, and the arithmetic written out."""

import pytest

from harness.aggregation import summarise
from harness.drivers.fake import FakePlan
from meswitch.core import GenerationRequest, Residency
from workloads.trace import Slo, TraceRequest

MS = 1_000_000

# scheduled at 0, 100 and 400 ms
REQUESTS = (
    TraceRequest(id="r0", t_ms=0, prompt="p", expert="a", answer="xyz", verifier="exact", slo=Slo(ttft_ms=50)),
    TraceRequest(id="r1", t_ms=100, prompt="p", expert="b", answer="no", verifier="exact", slo=Slo(ttft_ms=50)),
    TraceRequest(id="r2", t_ms=400, prompt="p", expert="b", answer="xy", verifier="exact", slo=Slo(ttft_ms=50)),
)
PLANS = {
    "r0": FakePlan(expert="a", first_token_ns=40 * MS, gap_ns=5 * MS, tokens=("x", "y", "z"), route_ns=2 * MS),
    "r1": FakePlan(
        expert="b",
        first_token_ns=90 * MS,
        gap_ns=10 * MS,
        tokens=("x", "y"),
        route_ns=4 * MS,
        switch_ns=60 * MS,
        source=Residency.DISK,
        moved_bytes=500,
    ),
    "r2": FakePlan(expert="a", first_token_ns=20 * MS, gap_ns=3 * MS, tokens=("x",), route_ns=6 * MS),
}


def plan(request: GenerationRequest) -> FakePlan:
    return PLANS[request.request_id]


@pytest.fixture
def arm(run_arms, make_stats):
    run, _ = run_arms(REQUESTS, {"fake": plan}, stats=make_stats(base=30, codes=12))
    return summarise(run.path).arms["fake"]


def test_time_to_first_token_counts_from_the_scheduled_time(arm):
    # 20, 40, 90 ms: the median is 40
    assert arm.ttft_s.n == 3
    assert arm.ttft_s.p50.value == pytest.approx(0.040)
    assert arm.ttft_s_by_class["disk"].p50.value == pytest.approx(0.090)
    # resident: 20 and 40; nearest rank takes ceil(0.5 * 2) = the first
    assert arm.ttft_s_by_class["resident"].p50.value == pytest.approx(0.020)
    assert arm.ttft_s_by_class["host"].p50 is None


def test_time_per_output_token_divides_by_the_tokens_after_the_first_chunk(arm):
    # r0: 10 ms / 2 tokens; r1: 10 ms / 1 token; r2 has one token: undefined, not zero
    assert arm.tpot_s.n == 2
    assert arm.tpot_s.p50.value == pytest.approx(0.005)


def test_end_to_end_ends_with_the_last_token(arm):
    # 50, 100, 20 ms
    assert arm.e2e_s.p50.value == pytest.approx(0.050)


def test_percentiles_that_the_data_cannot_support_are_undefined(arm):
    assert arm.ttft_s.p90 is None
    assert arm.ttft_s.p99 is None


def test_switches_and_routes_are_timed_by_the_engine(arm):
    assert arm.switches == 1
    assert arm.switch_s["disk"].p50.value == pytest.approx(0.060)
    assert arm.switch_s["host"].n == 0
    assert arm.moved_bytes == 500
    assert arm.route_s.p50.value == pytest.approx(0.004)
    assert arm.hit_rate.value == pytest.approx(2 / 3)


def test_accuracy_and_routing_are_shares_of_all_requests_that_can_be_judged(arm):
    # r0 "xyz" right; r1 "xy" instead of "no"; r2 "x" instead of "xy", and sent to a instead of b
    assert arm.accuracy.value == pytest.approx(1 / 3)
    assert arm.router_accuracy.value == pytest.approx(2 / 3)
    assert arm.by_expert["b"].requests == 2
    assert arm.by_expert["b"].accuracy.value == 0
    assert arm.by_expert["b"].router_accuracy.value == pytest.approx(1 / 2)


def test_goodput_counts_scheduled_requests_within_their_limits(arm):
    # the window ends with the last scheduled request, at 400 ms; r1's first token took 90 ms of 50
    assert arm.window_s == pytest.approx(0.4)
    assert arm.goodput_per_s.value == pytest.approx(2 / 0.4)
    assert arm.correct_goodput_per_s.value == pytest.approx(1 / 0.4)
    assert arm.slo_attainment.value == pytest.approx(2 / 3)


def test_throughput_counts_events_inside_the_window(arm):
    # r2's only token comes at 420 ms, after the window: 5 tokens and 2 answers are inside
    assert arm.output_tokens_per_s.value == pytest.approx(5 / 0.4)
    assert arm.requests_per_s.value == pytest.approx(2 / 0.4)
    assert arm.output_tokens == 6
    assert arm.duration_s == pytest.approx(0.420)


def test_memory_is_what_the_engine_says_with_a_total(arm):
    assert arm.weight_bytes == {"base": 30, "codes": 12, "total": 42}
    assert arm.kv_bytes == 7
    assert arm.budget_bytes == 1000


def test_without_a_gpu_its_figures_are_undefined(arm):
    assert arm.resources.gpu_memory_bytes is None
    assert arm.resources.gpu_energy_j is None


def test_failures_stay_in_every_count(run_arms):
    def failing(request: GenerationRequest) -> FakePlan:
        return FakePlan(fails="no") if request.request_id == "r0" else plan(request)

    run, _ = run_arms(REQUESTS, {"fake": failing})
    summary = summarise(run.path)
    arm = summary.arms["fake"]
    assert (arm.requests.scheduled, arm.requests.ok, arm.requests.failed) == (3, 2, 1)
    # the one right answer is gone, and its request still counts
    assert arm.accuracy.value == 0
    assert arm.slo_attainment.value == pytest.approx(1 / 3)
    assert summary.valid
    assert any("1 of 3 requests failed" in note for note in summary.notes)


def test_without_expected_answers_accuracy_is_undefined(run_arms):
    requests = [TraceRequest(id="r0", t_ms=0, prompt="p", expert="a")]
    run, _ = run_arms(requests, {"fake": plan})
    arm = summarise(run.path).arms["fake"]
    assert arm.accuracy is None
    assert arm.correct_goodput_per_s is None
    # one request makes no window to divide by
    assert arm.goodput_per_s is None
