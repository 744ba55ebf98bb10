import itertools

import pytest

from harness.errors import DriverError
from harness.loadgen import Pulse
from harness.sweep.loop import CellLoop
from harness.sweep.workload import Workload, cell_requests

MS = 1_000_000


@pytest.fixture
def run(clock, make_driver):
    def go(*, in_flight=4, arrivals=None, workload=None, driver=None, serial=False, **plan):
        workload = workload or Workload(prompt_tokens=4, output_tokens=3, seconds=1.0, warm_up_s=0.1)
        loop = CellLoop(
            driver=driver or make_driver(serial=serial, **plan),
            clock=clock,
            arm="fake",
            workload=workload,
            in_flight=in_flight,
            arrivals=arrivals,
        )
        return loop.run(cell_requests(workload, ("a", "b"), popularity="distinct", vocabulary=50))

    return go


def test_a_closed_loop_keeps_so_many_in_flight_and_replaces_what_ends(run):
    window = run(in_flight=4, workload=Workload(prompt_tokens=4, output_tokens=3, seconds=0.99, warm_up_s=0.1))
    # each takes 20 ms: 4 every 20 ms over 1.09 s, and 4 that are cancelled at the end
    assert [r.outcome for r in window.records] == ["ok"] * 4 * 54 + ["cancelled"] * 4
    assert window.closed_ns - window.opened_ns == 990 * MS


def test_requests_are_due_when_they_are_sent_and_ask_for_each_expert_in_turn(run):
    records = sorted(run(in_flight=2).records, key=lambda r: r.index)
    assert all(r.scheduled_ns == r.sent_ns for r in records)
    assert [r.expert_wanted for r in records[:4]] == ["a", "b", "a", "b"]
    assert {r.ttft_s for r in records if r.ttft_s is not None} == {0.01}


def test_the_window_opens_once_the_first_burst_has_its_first_tokens(run):
    # served one at a time, 20 ms each: the last of the 8 that came at once has its first token after 150 ms
    window = run(in_flight=8, serial=True)
    assert window.settled
    assert 150 * MS <= window.opened_ns < 210 * MS


def test_a_cell_that_does_not_settle_in_time_says_so(run):
    workload = Workload(prompt_tokens=4, output_tokens=3, seconds=0.2, warm_up_s=0.05, warm_up_limit_s=0.1)
    window = run(in_flight=8, serial=True, workload=workload)
    assert not window.settled
    assert window.opened_ns == 100 * MS


def test_a_number_of_answers_ends_the_window_before_its_time(run):
    workload = Workload(prompt_tokens=4, output_tokens=3, seconds=9.0, requests=10, warm_up_s=0.1)
    window = run(in_flight=1, workload=workload)
    assert window.closed_ns - window.opened_ns == pytest.approx(10 * 20 * MS, abs=21 * MS)


def test_an_open_loop_sends_at_its_own_times_whatever_is_in_flight(run):
    arrivals = itertools.accumulate(itertools.repeat(0.004))
    # 20 ms each, one at a time, every 4 ms: the queue grows, and so does waiting
    window = run(in_flight=None, arrivals=arrivals, serial=True)
    records = sorted(window.records, key=lambda r: r.index)
    assert [r.scheduled_ns for r in records[:3]] == [4 * MS, 8 * MS, 12 * MS]
    assert all(r.sent_ns >= r.scheduled_ns for r in records)
    # 1.1 s / 4 ms
    assert len(records) == pytest.approx(275, abs=2)
    answered = [r for r in records if r.outcome == "ok"]
    assert answered[-1].ttft_s > 0.5


def test_a_system_that_refuses_everything_ends_the_cell(run):
    with pytest.raises(DriverError, match=r"none of the first 50 requests was answered; .* FakeError: no room"):
        run(fails="no room")


def test_overruns_of_the_warm_up_are_not_the_windows(run, clock, make_driver):
    driver, pulse = make_driver(), Pulse()
    poll, slept = driver.poll, []

    def oversleep(timeout_s):
        events = poll(timeout_s)
        if not slept:
            slept.append(clock.now_ns())
            clock.sleep_until_ns(clock.now_ns() + 80 * MS)
        return events

    driver.poll = oversleep
    workload = Workload(prompt_tokens=4, output_tokens=3, seconds=0.3, warm_up_s=0.1)
    CellLoop(driver=driver, clock=clock, arm="fake", workload=workload, in_flight=2, arrivals=None, pulse=pulse).run(
        cell_requests(workload, ("a", "b"), popularity="distinct", vocabulary=50)
    )
    assert slept
    assert pulse.take_late_ns() == 0
