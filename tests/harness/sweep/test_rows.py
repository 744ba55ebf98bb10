from dataclasses import replace

import pytest

from harness.records import RequestRecord, SwitchRecord
from harness.sweep.cells import Cell
from harness.sweep.fit import fit_rows
from harness.sweep.results import CellRecord
from harness.sweep.rows import cell_row
from harness.telemetry.sample import Sample

MS, S, GIB = 1_000_000, 1_000_000_000, 1 << 30


def cell(experts=2, **fields):
    config = {
        "arm": "meswitch",
        "experts": experts,
        "policy": "lru",
        "popularity": "uniform",
        "in_flight": 2,
        "rate_per_s": None,
        "budget_bytes": 4 * GIB,
    }
    return CellRecord(
        **{
            "key": "k",
            "config_hash": "h",
            "configuration": "c",
            "family": "made",
            "codec": "rtn:bits=2",
            "prompt_tokens": 512,
            "output_tokens": 3,
            "commit": "abc",
            "cell": Cell(**config),
            "config": {"weights": "delta"},
            "outcome": "ok",
            "started": "now",
            "window_ns": (1 * S, 11 * S),
            "settled": True,
            "gpu_before_bytes": GIB,
            "stats_after": {"slots": 2, "weight_bytes": {"base": 7, "codes": 3}},
            **fields,
        }
    )


def request(index, sent_ms, first_ms, *, expert="a", switch_ms=None, tokens=3, outcome="ok"):
    chunks = tuple((first_ms * MS + i * 10 * MS, 1) for i in range(tokens))
    switch = None
    if switch_ms is not None:
        ready_ns = (sent_ms + switch_ms) * MS
        switch = SwitchRecord(expert=expert, source="host", decided_ns=sent_ms * MS, ready_ns=ready_ns, moved_bytes=1)
    return RequestRecord(
        arm="meswitch",
        index=index,
        request_id=f"r{index}",
        expert_wanted=expert,
        residency="host" if switch else "resident",
        switch=switch,
        scheduled_ns=sent_ms * MS,
        sent_ns=sent_ms * MS,
        first_token_ns=chunks[0][0],
        last_token_ns=chunks[-1][0],
        finished_ns=chunks[-1][0],
        chunks=chunks,
        output_tokens=tokens,
        outcome=outcome,
    )


def test_tokens_count_when_they_came_and_requests_by_their_first_token():
    requests = [
        # sent before the window, first token in it
        request(0, 900, 1100),
        request(1, 2000, 2100),
        # its first token is too late, though it was sent in the window
        request(2, 10_900, 11_100),
        # its first token was too early, but two others came in the window: at 1000 and 1010
        request(3, 950, 990),
    ]
    row = cell_row(cell(), requests, [])
    assert row.n == 2
    # 3 + 3 + 2 tokens in 10 s
    assert row.output_tokens_per_s == pytest.approx(0.8)
    # three ended in the window
    assert row.requests_per_s == pytest.approx(0.3)
    # 200 and 100 ms: the lower of two is the nearest rank of the median
    assert row.ttft_p50_s == pytest.approx(0.1)
    assert row.tpot_p50_s == pytest.approx(0.01)
    assert (row.codec, row.output_tokens, row.valid) == ("rtn:bits=2", 3, True)
    assert (row.family, row.prompt_tokens, row.commit) == ("made", 512, "abc")


def test_first_tokens_and_switches_are_told_apart_by_class():
    requests = [request(0, 2000, 2100), request(1, 3000, 3250, expert="b", switch_ms=150)]
    row = cell_row(cell(), requests, [])
    assert (row.ttft_resident_p50_s, row.ttft_host_p50_s) == (pytest.approx(0.1), pytest.approx(0.25))
    assert (row.switches, row.switch_p50_s) == (1, pytest.approx(0.15))
    assert row.hit_rate == 0.5
    assert row.ttft_disk_p50_s is None


def test_first_tokens_of_a_cell_that_had_not_settled_are_undefined():
    row = cell_row(cell(settled=False), [request(0, 2000, 2100)], [])
    assert row.ttft_p50_s is None
    assert row.ttft_resident_p50_s is None
    assert row.output_tokens_per_s is not None


def test_the_bound_replays_the_cells_own_sequence_from_the_first_touch_on():
    # one slot, touched with a; then a b b a: the best policy hits the first a and the second b
    stats = {"slots": 1, "weight_bytes": {}}
    record = cell(touched=("a",), sequence=("a", "b", "b", "a"), stats_after=stats)
    requests = [request(i, 2000 + i, 2100 + i, expert=expert) for i, expert in enumerate("abba")]
    assert cell_row(record, requests, []).belady_hit_rate == 0.5
    # only requests whose first token came in the window count: without the first one, 1 of 3
    late = [request(0, 100, 200, expert="a"), *requests[1:]]
    assert cell_row(record, late, []).belady_hit_rate == pytest.approx(1 / 3)


def test_memory_is_nvmls_less_what_was_there_and_beyond_the_budget_invalid():
    samples = [Sample(t_ns=i * S, arm="x", gpu_memory_bytes=(3 + i) * GIB, gpu_power_w=100.0) for i in range(3)]
    row = cell_row(cell(), [request(0, 2000, 2100)], samples)
    assert (row.nvml_bytes, row.weight_bytes, row.valid) == (4 * GIB, 10, True)
    # 100 W for 2 s, in which 0.3 tokens a second make 0.6
    assert row.energy_j_per_token == pytest.approx(200 / 0.6)
    over = cell_row(cell(gpu_before_bytes=0), [request(0, 2000, 2100)], samples)
    assert not over.valid
    assert over.reasons == ("the budget was 4.00 GiB, and the engine took 5.00 GiB by NVML",)


def test_failures_throttling_references_and_empty_windows_make_a_cell_invalid():
    failed = request(1, 3000, 3100, outcome="failed")
    held = [Sample(t_ns=0, arm="x", gpu_throttle=("hardware_thermal",))]
    record = cell(stats_after={"slots": 2, "is_reference": True})
    reasons = cell_row(record, [failed], held).reasons
    assert "plain PyTorch served instead of the kernels" in reasons[0]
    assert reasons[1] == "1 requests failed"
    assert "held back in 100% of the samples by hardware_thermal" in reasons[2]
    assert "no request got its first token" in cell_row(cell(), [], []).reasons[0]


def test_a_client_that_was_the_bottleneck_makes_a_cell_invalid():
    requests = [request(i, 2000 + 100 * i, 2050 + 100 * i) for i in range(20)]
    samples = [Sample(t_ns=i * S, arm="x", loop_lag_ns=1 * MS, client_cpu_share=0.3) for i in range(3)]
    assert cell_row(cell(), requests, samples).valid
    busy = [replace(sample, loop_lag_ns=55 * MS, client_cpu_share=0.75) for sample in samples]
    assert cell_row(cell(), requests, busy).reasons == (
        "the client was overloaded: client CPU 75.0 % of a core, limit 70 % of a core",
        "the client was overloaded: send loop lag p99 55.0 ms, limit 50 ms",
    )


def test_an_open_loop_that_fell_behind_its_arrivals_makes_a_cell_invalid():
    # due every 100 ms, sent every 110: 1900 ms of arrivals took 2090, and the last one went 190 ms late
    behind = [
        replace(request(i, 2000 + 110 * i, 2050 + 110 * i), scheduled_ns=(2000 + 100 * i) * MS) for i in range(20)
    ]
    row = cell_row(cell(), behind, [])
    assert not row.valid
    assert row.reasons == (
        "the client was overloaded: send lag p99 190.0 ms, limit 50 ms",
        "delivered load was -9.1% off the schedule, limit 2%",
    )
    # what was sent before the window opened is not the window's
    early = [replace(r, sent_ns=r.sent_ns - 1100 * MS, scheduled_ns=r.scheduled_ns - 1100 * MS) for r in behind]
    kept = [r for r in early if r.sent_ns < 1 * S]
    assert cell_row(cell(), [*kept, request(30, 2000, 2100)], []).valid


def test_what_was_not_measured_has_an_outcome_and_no_figures():
    row = cell_row(cell(outcome="oom", window_ns=None, message="out of memory"), [], [])
    assert (row.outcome, row.message, row.valid) == ("oom", "out of memory", False)
    assert row.output_tokens_per_s is None


def test_the_memory_plan_comes_to_what_its_parts_do():
    plan = {"context_bytes": 1, "base_bytes": 10, "slots": 3, "slot_bytes": 5, "kv_bytes": 2, "workspace_bytes": 4}
    stats = {"slots": 3, "memory_plan": {**plan, "budget_bytes": 99}}
    assert cell_row(cell(stats_after=stats), [], []).planned_bytes == 32


def fitted(numbers):
    rows = []
    for experts in numbers:
        stats = {"slots": min(experts, 16), "weight_bytes": {"codes": (10 + 2 * experts) << 20}}
        rows.append(cell_row(cell(experts, stats_after=stats), [request(0, 2000, 2100)], []))
    return {fit.metric: fit for fit in fit_rows(rows)}


def test_a_line_goes_through_cells_in_which_every_expert_is_resident():
    # 2 MiB an expert beside 10; beyond 16 slots nothing grows, and those cells are left out
    fit = fitted((1, 2, 4, 16, 32, 64))["weights_mib"]
    assert (fit.cells, fit.experts_least, fit.experts_most) == (4, 1, 16)
    assert (fit.per_expert, fit.at_none) == (pytest.approx(2), pytest.approx(10))
    assert (fit.per_expert_low, fit.per_expert_high) == (pytest.approx(2), pytest.approx(2))


def test_where_slots_are_not_known_a_line_goes_through_cells_without_a_miss():
    # a swap on a CPU keeps three models of 5 MiB, and from four experts on every other request misses
    rows = []
    for experts in (1, 2, 3, 4, 8):
        stats = {"slots": None, "weight_bytes": {"experts": (5 * min(experts, 3)) << 20}}
        misses = [request(1, 3000, 3250, expert="b", switch_ms=150)] if experts > 3 else []
        rows.append(cell_row(cell(experts, stats_after=stats), [request(0, 2000, 2100), *misses], []))
    fit = {line.metric: line for line in fit_rows(rows)}["weights_mib"]
    assert (fit.cells, fit.experts_least, fit.experts_most) == (3, 1, 3)
    assert (fit.per_expert, fit.at_none) == (pytest.approx(5), pytest.approx(0))


def test_too_few_cells_have_no_interval_or_no_line():
    assert fitted((1, 2, 4))["weights_mib"].per_expert_low is None
    assert fitted((1, 2)) == {}
