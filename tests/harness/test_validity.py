from dataclasses import replace

import pytest

from harness.aggregation import summarise
from harness.drivers.fake import FakePlan
from harness.loadgen import LoadLimits
from harness.metrics import summarise_arm
from harness.results import ArmManifest
from harness.telemetry import Sample
from harness.validity import ValidityLimits, arm_notes, arm_reasons
from meswitch.core import Finished
from workloads.trace import TraceRequest

MS = 1_000_000
GIB = 1 << 30


def every(gap_ms, n):
    return [TraceRequest(id=f"r{i}", t_ms=i * gap_ms, prompt="p", expert="a") for i in range(n)]


def quick(request):
    return FakePlan(expert="a")


def test_a_run_against_an_idle_client_is_valid(run_arms):
    run, _ = run_arms(every(10, 50), {"fake": quick})
    assert summarise(run.path).valid


def test_a_run_whose_client_was_overloaded_is_invalid(run_arms):
    # 10 ms between requests, and the client loses 30 ms on each send
    run, _ = run_arms(every(10, 50), {"fake": quick}, busy_ns=30 * MS)
    summary = summarise(run.path)
    assert not summary.valid
    assert any("send lag p99" in reason for reason in summary.reasons)
    assert any("delivered load" in reason for reason in summary.reasons)


def test_a_slow_system_is_not_an_overloaded_client(run_arms):
    run, _ = run_arms(every(10, 50), {"fake": lambda r: FakePlan(first_token_ns=500 * MS)}, serial=True)
    assert summarise(run.path).valid


def test_unfinished_requests_make_the_run_invalid(run_arms):
    def plan(request):
        return FakePlan(never_ends=request.request_id == "r3")

    run, _ = run_arms(every(10, 5), {"fake": plan}, limits=LoadLimits(drain_s=2))
    summary = summarise(run.path)
    assert summary.arms["fake"].requests.timeout == 1
    assert summary.reasons == ("fake: 1 requests were not finished within the drain limit",)


def test_differing_token_counts_make_the_run_invalid(run_arms, monkeypatch):
    def miscount(**values):
        return Finished(**{**values, "output_tokens": values["output_tokens"] + 1})

    monkeypatch.setattr("harness.drivers.fake.Finished", miscount)
    monkeypatch.setattr("harness.flight.Finished", Finished)
    run, _ = run_arms(every(10, 2), {"fake": quick})
    reasons = summarise(run.path).reasons
    assert len(reasons) == 1
    assert "token counts of 2 requests differ" in reasons[0]
    assert "2 received, 3 reported" in reasons[0]


def test_a_run_without_one_answer_is_invalid(run_arms):
    run, _ = run_arms(every(10, 2), {"fake": lambda r: FakePlan(fails="broken")})
    assert summarise(run.path).reasons == ("fake: no request was answered",)


@pytest.fixture
def steady(run_arms):
    """200 requests, 10 ms apart, 20 ms each: two in flight at any time, up to the edges."""
    run, _ = run_arms(every(10, 200), {"fake": lambda r: FakePlan(first_token_ns=10 * MS, gap_ns=10 * MS)})
    from harness.records import read_records

    records = read_records(run.requests)
    return records, summarise(run.path).arms["fake"], run.read_manifest().arms[0]


def sampled(in_flight, **fields):
    return [Sample(t_ns=i * 20 * MS, arm="fake", in_flight=in_flight, **fields) for i in range(100)]


def reasons(steady, samples, limits=None):
    records, summary, manifest = steady
    return arm_reasons(summary, records, samples, manifest, scheduled=200, limits=limits)


def test_littles_law_holds_where_the_samples_agree_with_the_stamps(steady):
    # 200 requests of 20 ms in 2.01 s: 1.99 in flight
    assert reasons(steady, sampled(2)) == []


def test_littles_law_off_by_more_than_five_percent_is_a_reason(steady):
    found = reasons(steady, sampled(3))
    assert len(found) == 1
    # 3 / (200 * 0.02 / 2.01) - 1
    assert "Little's law is off by +50.8%" in found[0]


def test_littles_law_is_not_checked_with_few_requests(steady):
    assert reasons(steady, sampled(3), ValidityLimits(littles_law_requests=201)) == []


def test_littles_law_is_not_checked_where_sampling_alone_explains_it(steady):
    noisy = [Sample(t_ns=i * 20 * MS, arm="fake", in_flight=(0, 6)[i % 2]) for i in range(100)]
    assert reasons(steady, noisy) == []


def test_a_busy_processor_of_the_client_is_a_reason(steady):
    records, summary, manifest = steady
    samples = [Sample(t_ns=i, arm="fake", client_cpu_share=share) for i, share in enumerate((0.8, None, 1.0))]
    found = arm_reasons(summary, records, samples, manifest, scheduled=200)
    assert found == ["fake: the client was overloaded: client CPU 90.0 % of a core, limit 70 % of a core"]


def test_a_late_send_loop_is_a_reason(steady):
    found = reasons(steady, sampled(2, loop_lag_ns=80 * MS))
    assert found == ["fake: the client was overloaded: send loop lag p99 80.0 ms, limit 50 ms"]


def test_a_system_that_stopped_is_a_reason(steady):
    records, summary, manifest = steady
    assert isinstance(manifest, ArmManifest)
    found = arm_reasons(summary, records, [], replace(manifest, stopped="EngineError: gone"), scheduled=200)
    assert found == ["fake: the system stopped: EngineError: gone"]


def test_what_a_stopped_system_was_never_sent_is_not_called_late(steady):
    records, summary, manifest = steady
    unsent = replace(summary, requests=replace(summary.requests, ok=199, unsent=1))
    found = arm_reasons(unsent, records, [], replace(manifest, stopped="EngineError: gone"), scheduled=200)
    assert found[1] == "fake: 1 requests were not sent"


def on_a_gpu(steady, samples, **fields):
    records, _, manifest = steady
    budget = {"memory_budget_bytes": 40 * GIB, "device": {"kind": "cuda"}}
    manifest = replace(manifest, config=budget, gpu_before_bytes=GIB, **fields)
    summary = summarise_arm(records, samples, [manifest])
    return summary, arm_reasons(summary, records, samples, manifest, scheduled=200)


def test_more_device_memory_than_the_budget_is_a_reason_with_the_numbers(steady):
    # 42 GiB on the device, of which 1 was taken before
    summary, found = on_a_gpu(steady, sampled(2, gpu_memory_bytes=42 * GIB))
    assert summary.resources.gpu_used_bytes == 41 * GIB
    assert found == ["fake: the memory budget was 42949672960 bytes (40.00 GiB), and NVML saw 44023414784 (41.00 GiB)"]
    assert on_a_gpu(steady, sampled(2, gpu_memory_bytes=41 * GIB))[1] == []


def test_memory_of_the_process_counts_where_the_driver_tells_it(steady):
    summary, found = on_a_gpu(steady, sampled(2, gpu_memory_bytes=70 * GIB, gpu_process_bytes=39 * GIB))
    assert (summary.resources.gpu_used_bytes, found) == (39 * GIB, [])


def test_throttling_is_a_reason_and_a_moment_of_it_a_note(steady):
    held = sampled(2, gpu_throttle=("gpu_idle", "software_thermal"))
    summary, found = on_a_gpu(steady, held)
    assert summary.resources.gpu_throttled_share == 1.0
    assert found == ["fake: the GPU's clocks were held back in 100% of the samples by software_thermal, limit 5%"]
    moment = [*sampled(2, gpu_throttle=()), *held[:3]]
    summary, found = on_a_gpu(steady, moment)
    assert found == []
    notes = arm_notes(summary, moment, steady[2])
    assert "fake: the GPU's clocks were held back for a moment by software_thermal" in notes
    # nothing to do, and clocks that a user set, hold nothing back
    assert on_a_gpu(steady, sampled(2, gpu_throttle=("gpu_idle", "application_clocks")))[1] == []


def test_a_card_at_its_power_limit_is_a_note_with_its_clock(steady):
    drawn = sampled(2, gpu_throttle=("software_power_cap",), gpu_sm_clock_mhz=1890)
    summary, found = on_a_gpu(steady, drawn)
    assert found == []
    assert (summary.resources.gpu_throttled_share, summary.resources.gpu_power_limited_share) == (0.0, 1.0)
    note = "fake: the GPU drew as much power as it may in 100% of the samples; its clock was 1,890 MHz at the lowest"
    assert note in arm_notes(summary, drawn, steady[2])


def test_plain_pytorch_in_place_of_the_kernels_is_a_reason(steady):
    _, found = on_a_gpu(steady, sampled(2), stats_after={"is_reference": True})
    assert found == ["fake: plain PyTorch on the processor served instead of the GPU's kernels: no benchmark"]
