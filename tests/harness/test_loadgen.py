import pytest

from harness.clock import FakeClock
from harness.drivers.fake import FakeDriver, FakePlan
from harness.loadgen import LoadGenerator, LoadLimits, Pulse
from harness.schedule import build_schedule
from meswitch.errors import EngineError
from workloads.trace import TraceRequest

MS = 1_000_000


@pytest.fixture
def schedule(make_trace):
    requests = [TraceRequest(id=f"r{i}", t_ms=i * 10, prompt="p", expert="a") for i in range(20)]
    return build_schedule(make_trace(requests), router="tag", experts=("a",))


def replay(driver, clock, schedule, **options):
    records = []
    generator = LoadGenerator(driver, clock, arm="fake", on_record=records.append, **options)
    stopped = generator.replay(schedule)
    return sorted(records, key=lambda r: r.index), stopped


def test_a_slow_system_does_not_delay_the_schedule(clock, schedule):
    # each answer takes a second, one after another; requests are due every 10 ms
    driver = FakeDriver(lambda r: FakePlan(first_token_ns=1000 * MS, tokens=("x",)), clock, serial=True)
    records, _ = replay(driver, clock, schedule)
    assert [r.send_lag_s for r in records] == [0.0] * 20
    # the last one waited for the 19 before it: 20 s of work, less the 190 ms after which it came
    assert records[-1].ttft_s == pytest.approx(20 - 0.19)


def test_latency_counts_from_the_scheduled_time_when_the_client_is_late(clock, schedule):
    driver = FakeDriver(lambda r: FakePlan(first_token_ns=5 * MS), clock, busy_ns=30 * MS)
    records, _ = replay(driver, clock, schedule)
    # the second was due at 10 ms and sent at 30 ms; its token came at 35 ms, but the client sent 16 without a pause
    assert records[1].send_lag_s == pytest.approx(0.020)
    assert records[1].ttft_s == pytest.approx(0.480 - 0.010)


def test_every_request_gets_exactly_one_record(clock, schedule):
    def plan(request):
        if request.request_id == "r3":
            return FakePlan(fails="broken")
        return FakePlan(never_ends=request.request_id == "r4")

    records, _ = replay(FakeDriver(plan, clock), clock, schedule, limits=LoadLimits(drain_s=1))
    assert [r.index for r in records] == list(range(20))
    assert {r.outcome for r in records[:3]} == {"ok"}
    assert (records[3].outcome, records[3].message) == ("failed", "broken")
    assert (records[4].outcome, records[4].finished_ns) == ("timeout", 190 * MS + 1000 * MS)


def test_requests_still_unsent_at_the_drain_limit_are_recorded_so(clock, schedule):
    # the client loses 100 ms on each send: 16 of them last until 1.6 s, and the limit is 0.19 + 1 s
    driver = FakeDriver(lambda r: FakePlan(first_token_ns=5 * MS), clock, busy_ns=100 * MS)
    records, _ = replay(driver, clock, schedule, limits=LoadLimits(drain_s=1))
    assert {r.outcome for r in records[:16]} == {"ok"}
    assert {r.outcome for r in records[16:]} == {"unsent"}
    assert all(r.sent_ns is None for r in records[16:])


class Dying(FakeDriver):
    """Stops at the third poll."""

    polls = 0

    def poll(self, timeout_s):
        self.polls += 1
        if self.polls == 3:
            raise EngineError("the engine's process stopped")
        return super().poll(timeout_s)


def test_a_system_that_dies_fails_what_was_in_flight_and_leaves_the_rest_unsent(clock, schedule):
    records, stopped = replay(Dying(lambda r: FakePlan(first_token_ns=50 * MS), clock), clock, schedule)
    assert stopped == "EngineError: the engine's process stopped"
    assert len(records) == 20
    assert records[0].outcome == "failed"
    assert records[0].error == "EngineError"
    assert records[-1].outcome == "unsent"
    assert records[-1].sent_ns is None


class Interrupted(FakeDriver):
    """Plays a Ctrl-C at the fifth poll."""

    polls = 0

    def poll(self, timeout_s):
        self.polls += 1
        if self.polls == 5:
            raise KeyboardInterrupt
        return super().poll(timeout_s)


def test_an_interruption_closes_what_is_in_flight_and_says_nothing_of_the_rest(clock, schedule):
    records = []
    driver = Interrupted(lambda r: FakePlan(first_token_ns=15 * MS), clock)
    with pytest.raises(KeyboardInterrupt):
        LoadGenerator(driver, clock, arm="fake", on_record=records.append).replay(schedule)
    assert 0 < len(records) < 20
    assert records[-1].outcome == "cancelled"


def test_the_pulse_counts_what_is_in_flight_and_how_late_the_loop_was(clock, schedule):
    pulse = Pulse()

    class Watched(FakeDriver):
        seen = 0

        def poll(self, timeout_s):
            Watched.seen = max(Watched.seen, pulse.in_flight)
            return super().poll(timeout_s)

    replay(Watched(lambda r: FakePlan(first_token_ns=25 * MS, tokens=("x",)), clock), clock, schedule, pulse=pulse)
    # 25 ms of answer and 10 ms between requests: three at once
    assert Watched.seen == 3
    assert (pulse.sent, pulse.ended, pulse.in_flight) == (20, 20, 0)
    assert pulse.take_late_ns() == 0


def test_events_of_unknown_requests_are_ignored(schedule):
    clock = FakeClock()
    driver = FakeDriver(lambda r: FakePlan(), clock)
    from meswitch.core import GenerationRequest

    driver.send(GenerationRequest(request_id="warm-up-0", prompt="p", expert="a"))
    records, _ = replay(driver, clock, schedule)
    assert len(records) == 20
