"""Misses, hits and bystanders of a system whose latencies are known."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import run_command
from harness.clock import FakeClock
from harness.drivers.fake import FakeDriver, FakePlan
from harness.engines import EngineOptions
from harness.errors import UsageError
from harness.switching.build import rebuild_switching
from harness.switching.execute import execute_switching
from harness.switching.plan import Setting, SwitchingOptions, SwitchingPlan, plan_switching
from harness.switching.results import SwitchingDirectory
from harness.switching.rows import interference_rows, resident_rows, switch_rows
from harness.telemetry import NullGpu, Sample
from meswitch.config import DeviceConfig, EngineConfig, SyntheticConfig
from meswitch.core import EngineStats, Residency
from meswitch.errors import CapacityError
from tests.harness.shape_families import prepared_shapes

MS = 1_000_000
EXPERTS = tuple(f"e{number}" for number in range(6))
OPTIONS = SwitchingOptions(
    slots=3, pairs=30, prompt_tokens=4, output_tokens=3, phase_s=1.0, streams=1, stream_tokens=50, switches_per_s=10
)


class Memory:
    """A system with two places: an expert that is in neither costs a copy, and a copy holds up everyone's tokens."""

    def __init__(self, clock: FakeClock, *, copy_ms: int, stall_ms: int = 0) -> None:
        self.clock = clock
        self.resident: list[str] = []
        self.copies = self.copy_us = 0
        self.copy_ms, self.stall_ms = copy_ms, stall_ms

    def plan(self, request):
        missing = request.expert not in self.resident and request.expert != "e0"
        if missing:
            self.resident = [*self.resident, request.expert][-2:]
            self.copies += 1
            self.copy_us += 1000 * self.copy_ms
        elif request.expert in self.resident:
            self.resident.remove(request.expert)
            self.resident.append(request.expert)
        switch_ns = self.copy_ms * MS if missing else 0
        tokens = request.sampling.max_tokens
        return FakePlan(
            expert=request.expert,
            first_token_ns=20 * MS + switch_ns,
            gap_ns=5 * MS + (self.stall_ms * MS if request.expert == "e0" and self.copies else 0),
            tokens=("x",) * tokens,
            switch_ns=switch_ns,
            source=Residency.HOST if missing else Residency.RESIDENT,
        )

    def driver(self) -> FakeDriver:
        driver = FakeDriver(self.plan, self.clock)
        empty = EngineStats(
            weight_bytes={}, kv_bytes=0, budget_bytes=0, switches=0, evictions=0, hits=0, moved_bytes=0, slots=3
        )
        driver.stats = lambda: replace(empty, tiers={"copies": self.copies, "copy_us": self.copy_us})
        return driver


def setting(arm: str, nbytes: int) -> Setting:
    config = EngineConfig(
        base=Path("shape"),
        experts=dict.fromkeys(EXPERTS, Path("shape")),
        memory_budget_bytes=1000,
        device=DeviceConfig(kind="cuda"),
        synthetic=SyntheticConfig(host_images=4),
        weights="delta" if arm == "meswitch" else "full",
    )
    return Setting(arm=arm, case="host", config=config, expert_bytes=nbytes)


@pytest.fixture
def measured(tmp_path):
    def measure(memories, *, codec="rtn:bits=2", bytes_per_s=1000.0, stop=lambda record: None):
        # weights that are not drawn: nothing is said of them
        prepared = prepared_shapes(EXPERTS, codec=codec, codec_options={}, vocabulary=9, synthetic=None)
        settings = tuple(setting(arm, 10 if arm == "meswitch" else 100) for arm in memories)
        plan = SwitchingPlan(options=OPTIONS, prepared=prepared, experts=EXPERTS, settings=settings)
        directory = SwitchingDirectory(tmp_path / "switching")
        drivers = iter(memories.values())
        execute_switching(
            plan,
            directory,
            gpu=NullGpu(),
            bytes_per_s=bytes_per_s,
            clock=next(iter(memories.values())).clock,
            make_driver=lambda config: next(drivers).driver(),
            on_setting=stop,
        )
        return rebuild_switching(directory)

    return measure


def test_a_switch_costs_what_the_pairs_differ_by(measured):
    clock = FakeClock()
    tables = measured({"meswitch": Memory(clock, copy_ms=12), "full-swap-host": Memory(clock, copy_ms=120)})
    rows = {(row.arm, row.case): row for row in tables.rows}
    ours, theirs = rows["meswitch", "host"], rows["full-swap-host", "host"]
    assert (ours.n, ours.others) == (30, 0)
    assert ours.ttft_ms == pytest.approx(32)
    assert ours.ttft_penalty_ms == pytest.approx(12)
    assert ours.interval == pytest.approx((12, 12))
    # 10 bytes at 1000 bytes/s
    assert (ours.copy_ms, ours.copy_floor_ms, ours.copy_ratio) == (12, 10, pytest.approx(1.2))
    # 120 ms against 12 ms
    assert ours.whole_model_ratio == pytest.approx(10)
    assert ours.whole_model_penalty_ratio == pytest.approx(10)
    assert theirs.whole_model_penalty_ratio == pytest.approx(1)
    assert theirs.copy_floor_ms == 100
    assert rows["meswitch", "resident"].ttft_ms == pytest.approx(20)
    assert rows["meswitch", "resident"].copy_ms is None
    # 6 experts, of which 4 have a place of their own in host memory
    assert ours.shared_images == 2


def test_report_rebuilds_the_tables_from_the_raw_requests(measured, tmp_path):
    measured({"meswitch": Memory(FakeClock(), copy_ms=12)})
    path = tmp_path / "switching"
    first = [(path / name).read_bytes() for name in ("switching.json", "interference.json")]
    for name in ("switching.json", "interference.json"):
        (path / name).unlink()
    assert run_command(["report", str(path)]) == 0
    assert [(path / name).read_bytes() for name in ("switching.json", "interference.json")] == first


def test_settings_of_a_former_codec_or_bandwidth_are_not_read_beside_new_ones(measured, tmp_path):
    def both():
        clock = FakeClock()
        return {"meswitch": Memory(clock, copy_ms=12), "full-swap-host": Memory(clock, copy_ms=120)}

    def interrupt(record):
        raise KeyboardInterrupt

    measured(both())
    with pytest.raises(KeyboardInterrupt):
        measured(both(), codec="rtn:bits=4", bytes_per_s=500.0, stop=interrupt)
    directory = SwitchingDirectory(tmp_path / "switching")
    # the second call ended after its first setting; the whole model's copy is of the first call, at its bandwidth
    rows = rebuild_switching(directory).rows
    assert {row.arm for row in rows} == {"meswitch"}
    assert (rows[1].copy_floor_ms, rows[1].whole_model_ratio) == (20, None)
    record = next(directory.read_settings()).record
    assert (record.family, record.measurement) == ("made", directory.read_manifest().measurement)


def test_pairs_that_did_not_switch_are_left_out_and_counted(measured):
    clock = FakeClock()
    memory = Memory(clock, copy_ms=12)
    plan = memory.plan

    def without_e1(request):
        made = plan(request)
        return replace(made, source=Residency.RESIDENT, switch_ns=0) if request.expert == "e1" else made

    memory.plan = without_e1
    row = next(row for row in measured({"meswitch": memory}).rows if row.case == "host")
    # e1 is one of the five that are asked for in turn
    assert (row.n, row.others) == (24, 6)


def test_a_hit_after_a_switch_is_held_against_requests_that_nothing_switches_before(measured):
    clock = FakeClock()
    memory = Memory(clock, copy_ms=12)
    plan = memory.plan

    def slower_after_a_switch(request):
        made = plan(request)
        is_hit = request.expert != "e0" and made.source is Residency.RESIDENT
        return replace(made, first_token_ns=21 * MS, gap_ns=6 * MS) if is_hit else made

    memory.plan = slower_after_a_switch
    swap = Memory(clock, copy_ms=120)
    rows = {(row.arm, row.figure): row for row in measured({"meswitch": memory, "full-swap-host": swap}).interference}
    ttft, tpot = rows["meswitch", "resident_ttft_p50"], rows["meswitch", "resident_tpot_p50"]
    assert (ttft.without_ms, ttft.with_ms) == (pytest.approx(20), pytest.approx(21))
    assert (ttft.ratio, ttft.ratio_low, ttft.ratio_high) == pytest.approx((1.05, 1.05, 1.05))
    assert tpot.ratio == pytest.approx(6 / 5)
    # fifteen before the pairs and as many after them; each of the thirty misses switched
    assert (ttft.n_without, ttft.n_with, ttft.switches, ttft.case) == (30, 30, 30, "host")
    # a single buffer keeps nobody, so that there is nothing to compare with
    assert ("full-swap-host", "resident_ttft_p50") not in rows


def test_what_was_to_need_no_switch_and_did_is_a_reason(measured, tmp_path):
    measured({"meswitch": Memory(FakeClock(), copy_ms=12)})
    setting = next(SwitchingDirectory(tmp_path / "switching").read_settings())
    first = next(r.request_id for r in setting.requests if r.task == "still")
    requests = [replace(r, residency="host") if r.request_id == first else r for r in setting.requests]
    assert {row.reasons for row in resident_rows(setting._replace(requests=requests))} == {
        ("1 of 30 requests that were to need no switch needed one",)
    }


def test_bystanders_are_compared_with_and_without_switches(measured):
    tables = measured({"meswitch": Memory(FakeClock(), copy_ms=12)})
    rows = {row.figure: row for row in tables.interference}
    assert rows["gap_p99"].ratio == pytest.approx(1.0, abs=0.05)
    assert rows["gap_p99"].without_ms == pytest.approx(5, abs=0.5)
    assert rows["gap_p99"].n_with >= 300
    # two phases of a second with ten others each second, all for experts that are gone by then
    assert rows["gap_p99"].switches == pytest.approx(18, abs=3)
    assert rows["tpot_p50"].with_ms == pytest.approx(5, abs=0.1)


def test_switching_alone_differs_between_the_phases(measured, tmp_path):
    measured({"meswitch": Memory(FakeClock(), copy_ms=12)})
    requests = next(SwitchingDirectory(tmp_path / "switching").read_settings()).requests
    beside = {kind: [r for r in requests if r.task == f"other {kind}"] for kind in ("without", "with")}
    assert abs(len(beside["without"]) - len(beside["with"])) <= 2
    # one expert beside the streams' own in either: the same one, which is there, or another each time, which is not
    assert {(r.expert_wanted, r.residency) for r in beside["without"]} == {("e1", "resident")}
    assert {(r.expert_wanted, r.residency) for r in beside["with"]} == {(f"e{n}", "host") for n in (2, 3, 4, 5)}
    assert {r.expert_wanted for r in requests if r.task.startswith("stream")} == {"e0"}


def test_a_client_that_was_the_bottleneck_makes_what_it_measured_then_invalid(measured, tmp_path):
    measured({"meswitch": Memory(FakeClock(), copy_ms=12)})
    setting = next(SwitchingDirectory(tmp_path / "switching").read_settings())
    pairs_end_ns = max(r.finished_ns for r in setting.requests if r.task in ("miss", "hit"))
    samples = [
        Sample(t_ns=pairs_end_ns - 1 * MS, arm="meswitch", loop_lag_ns=2 * MS, client_cpu_share=0.2),
        Sample(t_ns=pairs_end_ns + 900 * MS, arm="meswitch", loop_lag_ns=60 * MS, client_cpu_share=0.9),
    ]
    setting = setting._replace(samples=samples)
    assert all(row.valid for row in switch_rows([setting], bytes_per_s=None))
    for row in interference_rows(setting):
        assert not row.valid
        assert row.reasons == (
            "the client was overloaded: client CPU 90.0 % of a core, limit 70 % of a core",
            "the client was overloaded: send loop lag p99 60.0 ms, limit 50 ms",
        )
    slow = setting._replace(samples=[replace(sample, t_ns=pairs_end_ns - 1 * MS) for sample in samples[1:]])
    assert {row.valid for row in switch_rows([slow], bytes_per_s=None)} == {False}
    assert all(row.valid for row in interference_rows(slow))


def test_requests_beside_the_streams_that_came_late_or_switched_against_the_plan_are_reasons(measured, tmp_path):
    measured({"meswitch": Memory(FakeClock(), copy_ms=12)})
    setting = next(SwitchingDirectory(tmp_path / "switching").read_settings())
    assert all(row.reasons == () for row in interference_rows(setting))
    switch = next(r.switch for r in setting.requests if r.task == "other with")
    requests = [
        replace(r, sent_ns=r.scheduled_ns + 80 * MS, switch=switch if r.task == "other without" else r.switch)
        if (r.task or "").startswith("other")
        else r
        for r in setting.requests
    ]
    first, *_ = interference_rows(setting._replace(requests=requests))
    count = sum(r.task == "other without" for r in requests)
    assert first.reasons == (
        "the client was overloaded: send lag p99 80.0 ms, limit 50 ms",
        f"{count} of {count} requests of the phases without switches needed one",
    )


def test_an_engine_that_does_not_start_is_a_row_that_says_why(measured, monkeypatch):
    memory = Memory(FakeClock(), copy_ms=12)

    def fail(self):
        raise CapacityError("needs 3 bytes, got 2")

    monkeypatch.setattr(FakeDriver, "start", fail)
    row = measured({"meswitch": memory}).rows[1]
    assert (row.outcome, row.message, row.n) == ("does-not-fit", "needs 3 bytes, got 2", 0)
    assert row.ttft_ms is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 29}, "--pairs must be at least 30, got 29"),
        ({"streams": 6}, "leave a slot for the others, got 6 of 6"),
        ({"phase_s": 0}, "--phase must be positive"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        SwitchingOptions(**options)


def test_a_cpu_has_no_tiers(tmp_path):
    with pytest.raises(UsageError, match="give --device cuda, got cpu"):
        plan_switching(SwitchingOptions(), EngineOptions(), family="mistral-7b", codec="rtn:bits=2", budget=1)


def test_settings_come_from_the_host_in_planes_and_as_whole_models(monkeypatch):
    def prepare(request, *, report):
        return prepared_shapes(
            request.experts,
            family=request.family,
            codec=request.codec,
            codec_name="",
            codec_options={},
            vocabulary=9,
            synthetic=SyntheticConfig(linear=request.codec),
        )

    monkeypatch.setattr("harness.switching.plan.prepare", prepare)
    engine = EngineOptions(device="cuda", dtype="bfloat16", max_context_tokens=2048)
    plan = plan_switching(SwitchingOptions(), engine, family="mistral-7b", codec="rtn:bits=2", budget=1000)
    assert [(s.name, s.codec, s.expert_bytes) for s in plan.settings] == [
        ("meswitch_host", "rtn:bits=2", 10),
        ("meswitch_plane", "nested", 10),
        ("full-swap-host_host", None, 100),
    ]
    # random experts have no files, and so no disk; twice as many experts as slots, the streams' own pinned
    assert len(plan.experts) == 12
    ours, planes, swap = (setting.config for setting in plan.settings)
    assert (ours.device.slots, ours.store.pinned) == (6, plan.experts[:4])
    assert planes.synthetic is not None
    assert planes.synthetic.linear == "nested"
    assert (swap.device.model_buffers, swap.store.pinned) == (1, ())
    with pytest.raises(UsageError, match="meswitch needs 160 B, got 159 B"):
        plan_switching(SwitchingOptions(), engine, family="mistral-7b", codec="rtn:bits=2", budget=159)
    short = replace(engine, max_context_tokens=600)
    with pytest.raises(UsageError, match="need --max-context 640, got 600"):
        plan_switching(SwitchingOptions(), short, family="mistral-7b", codec="rtn:bits=2", budget=1000)
