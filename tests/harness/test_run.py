import errno

import pytest

from harness.aggregation import rebuild_summary, summarise
from harness.drivers.fake import FakeDriver, FakePlan
from harness.errors import DriverError, RunFormatError
from harness.records import RecordWriter, read_records
from harness.run import Progress
from meswitch.core import EngineStats
from meswitch.errors import CapacityError, StorageError
from workloads.trace import TraceRequest

MS = 1_000_000


def requests(n):
    return [
        TraceRequest(id=f"r{i}", t_ms=i * 10, prompt="p", expert="a", answer="ok", verifier="exact") for i in range(n)
    ]


def fast(request):
    return FakePlan(expert="a", first_token_ns=10 * MS)


def slow(request):
    return FakePlan(expert="a", first_token_ns=40 * MS)


def test_all_arms_replay_the_same_schedule_in_the_order_given(run_arms):
    run, interrupted = run_arms(requests(30), {"second": fast, "first": slow})
    records = read_records(run.requests)
    assert not interrupted
    assert [r.arm for r in records] == ["second"] * 30 + ["first"] * 30
    assert [r.scheduled_ns for r in records[:30]] == [r.scheduled_ns for r in records[30:]]
    manifest = run.read_manifest()
    assert manifest.status == "complete"
    assert [(arm.name, arm.order) for arm in manifest.arms] == [("second", 0), ("first", 1)]


def test_the_summary_is_rebuilt_from_the_records_byte_for_byte(run_arms, make_stats):
    run, _ = run_arms(requests(400), {"meswitch": fast, "full-swap-disk": slow}, stats=make_stats(base=1))
    rebuild_summary(run.path)
    first = run.summary.read_bytes()
    run.summary.unlink()
    rebuild_summary(run.path)
    assert run.summary.read_bytes() == first


def test_a_complete_run_without_telemetry_is_refused(run_arms):
    run, _ = run_arms(requests(4), {"meswitch": fast})
    run.telemetry.unlink()
    with pytest.raises(RunFormatError, match=r"telemetry\.jsonl: cannot read the samples: the file is missing"):
        summarise(run.path)


def test_the_comparison_pairs_requests(run_arms, make_stats):
    run, _ = run_arms(requests(400), {"meswitch": fast, "full-swap-disk": slow}, stats=make_stats(base=1))
    comparison = summarise(run.path).comparison[0]
    assert (comparison.arm, comparison.baseline, comparison.pairs) == ("meswitch", "full-swap-disk", 400)
    # 10 ms against 40 ms, always
    assert comparison.ttft_p50.value == pytest.approx(0.25)
    assert comparison.ttft_p50.low == pytest.approx(0.25)
    assert comparison.weight_bytes == 1
    assert comparison.accuracy_difference.value == 0
    assert comparison.equal_outputs.value == 1


def test_warm_up_requests_are_answered_and_not_recorded(run_arms):
    seen = []

    def plan(request):
        seen.append(request.request_id)
        return FakePlan()

    run, _ = run_arms(requests(4), {"fake": plan}, warm_up=2)
    assert seen == ["warm-up-0", "warm-up-1", "r0", "r1", "r2", "r3"]
    assert len(read_records(run.requests)) == 4
    assert run.read_manifest().arms[0].warm_up_requests == 2


def test_a_run_that_fails_before_its_first_request_leaves_nothing_behind(run_arms, tmp_path):
    with pytest.raises(DriverError, match="request r0 failed in the warm-up: FakeError: no such expert"):
        run_arms(requests(4), {"fake": lambda r: FakePlan(fails="no such expert")}, warm_up=1)
    assert list(tmp_path.iterdir()) == []


def test_a_second_arm_that_cannot_start_keeps_the_first_and_says_where(run_arms, tmp_path):
    def plan(request):
        return FakePlan(fails="no memory")

    with pytest.raises(DriverError, match=f"no memory; --warm-up 0 .+; the records so far are kept in {tmp_path}/run"):
        run_arms(requests(4), {"one": fast, "two": plan}, warm_up=1)
    summary = summarise(tmp_path / "run")
    assert summary.partial
    assert summary.arms["one"].requests.ok == 4


@pytest.mark.parametrize(("whole", "kept"), [(0, ""), (3, "; the records so far are kept")])
def test_a_full_disk_names_the_run_and_keeps_whole_records(run_arms, tmp_path, monkeypatch, whole, kept):
    append = RecordWriter.append
    written = []

    def until_full(self, record):
        if len(written) == whole:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, record)
        written.append(record)

    monkeypatch.setattr(RecordWriter, "append", until_full)
    with pytest.raises(StorageError, match=f"/run cannot be read or written: No space left on device{kept}$"):
        run_arms(requests(5), {"fake": fast})
    if whole:
        assert summarise(tmp_path / "run").partial
    assert list(tmp_path.iterdir()) == ([tmp_path / "run"] if whole else [])


def interrupt_after(n):
    seen = []

    def on_record(record):
        seen.append(record)
        if len(seen) == n:
            raise KeyboardInterrupt

    return Progress(on_record=on_record)


def test_an_interrupted_run_is_kept_readable_and_marked_partial(run_arms):
    run, interrupted = run_arms(requests(50), {"fake": fast}, progress=interrupt_after(20))
    assert interrupted
    summary = summarise(run.path)
    assert summary.partial
    assert not summary.valid
    assert summary.reasons[0].startswith("the run is partial")
    assert summary.arms["fake"].requests.ok == 20
    # what was in flight when the user stopped says nothing about the system
    assert summary.arms["fake"].accuracy.value == 1.0


def test_a_run_interrupted_in_its_second_arm_keeps_the_first(run_arms):
    run, _ = run_arms(requests(50), {"one": fast, "two": slow}, progress=interrupt_after(60))
    summary = summarise(run.path)
    assert summary.arms["one"].requests.ok == 50
    assert summary.arms["two"].requests.ok == 10


def test_a_run_interrupted_before_its_first_record_leaves_nothing_behind(run_arms, tmp_path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeDriver, "start", interrupted)
    _, was_interrupted = run_arms(requests(5), {"fake": fast})
    assert was_interrupted
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_record_is_left_out(run_arms):
    run, _ = run_arms(requests(5), {"fake": fast})
    whole = run.requests.read_bytes()
    run.requests.write_bytes(whole[:-10])
    assert len(read_records(run.requests)) == 4


def test_the_memory_plan_of_a_gpu_is_said_once_for_each_arm(run_arms):
    plan = {"budget_bytes": 10, "slots": 2}
    stats = EngineStats(
        weight_bytes={}, kv_bytes=0, budget_bytes=10, switches=0, evictions=0, hits=0, moved_bytes=0, memory_plan=plan
    )
    said = []
    progress = Progress(on_plan=lambda name, found: said.append((name, found)))
    run_arms(requests(2), {"one": fast, "two": fast}, progress=progress, stats=stats)
    assert said == [("one", plan), ("two", plan)]


def test_without_a_gpu_no_memory_plan_is_said(run_arms):
    said = []
    run_arms(requests(2), {"one": fast}, progress=Progress(on_plan=lambda *found: said.append(found)))
    assert said == []


def test_repeated_arms_alternate_and_are_pooled(run_arms, make_stats):
    run, _ = run_arms(requests(40), {"ours": fast, "theirs": slow}, stats=make_stats(base=1), repeats=2)
    manifest = run.read_manifest()
    # A B B A
    assert [(arm.name, arm.repeat, arm.order) for arm in manifest.arms] == [
        ("ours", 0, 0),
        ("theirs", 0, 1),
        ("theirs", 1, 2),
        ("ours", 1, 3),
    ]
    summary = summarise(run.path)
    assert list(summary.arms) == ["ours", "theirs"]
    assert summary.valid
    once = summary.arms["ours"]
    # twice 40 requests, in twice 390 ms
    assert (once.requests.ok, once.window_s) == (80, pytest.approx(0.78))
    # 39 arrive before the last one, 10 ms each: 100 a second, whether once or twice
    assert once.goodput_per_s.value == pytest.approx(80 / 0.78)
    assert summary.comparison[0].pairs == 80
    assert summary.comparison[0].ttft_p50.value == pytest.approx(0.25)


def test_an_arm_that_may_not_fit_is_a_result_and_the_others_go_on(run_arms, monkeypatch):
    start = FakeDriver.start
    started = []

    def refuse_second(self):
        started.append(self)
        if len(started) == 2:
            raise CapacityError("16 models take 232 GB, got 80 GB")
        start(self)

    monkeypatch.setattr(FakeDriver, "start", refuse_second)
    arms = {"meswitch": fast, "all-resident": fast, "full-swap-host": slow}
    run, _ = run_arms(requests(10), arms, may_not_fit=("all-resident",), repeats=2)
    summary = summarise(run.path)
    assert summary.did_not_start == {"all-resident": "16 models take 232 GB, got 80 GB"}
    assert list(summary.arms) == ["meswitch", "full-swap-host"]
    assert summary.valid
    assert summary.notes[0].startswith("all-resident: did not start, which is its result: 16 models")
    # once is enough: it is not tried a second time
    assert len(started) == 5


def test_an_arm_that_must_start_and_does_not_ends_the_run(run_arms, monkeypatch):
    def refuse(self):
        raise CapacityError("needs 3 bytes, got 2")

    monkeypatch.setattr(FakeDriver, "start", refuse)
    with pytest.raises(CapacityError, match="needs 3 bytes"):
        run_arms(requests(4), {"meswitch": fast})
