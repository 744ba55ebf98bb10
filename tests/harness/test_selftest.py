import pytest

from harness import selftest
from harness.clock import FakeClock
from harness.drivers.fake import FakeDriver
from harness.errors import UsageError
from harness.selftest import Check, SelftestOptions, run_selftest


@pytest.fixture(autouse=True)
def fake_time(monkeypatch):
    monkeypatch.setattr(selftest, "MonotonicClock", FakeClock)


def test_a_right_client_passes_every_check():
    checks = run_selftest(SelftestOptions())
    assert len(checks) == 15
    assert [check.name for check in checks if not check.passed] == []


def test_a_client_that_reads_answers_late_fails(monkeypatch):
    original = FakeDriver.poll

    def late(self, timeout_s):
        events = original(self, timeout_s)
        if events:
            self._clock.advance_ns(3_000_000)
        return events

    monkeypatch.setattr(FakeDriver, "poll", late)
    failed = [check.name for check in run_selftest(SelftestOptions()) if not check.passed]
    assert "TTFT p50, resident" in failed


@pytest.mark.parametrize(
    ("known", "measured", "seconds", "passed"),
    [
        (0.020, 0.0209, True, True),
        (0.020, 0.0211, True, False),
        (1.0, 1.009, True, True),
        (1.0, 1.011, True, False),
        (100, 101, False, True),
        (100, 102, False, False),
        (1.0, None, True, False),
    ],
)
def test_a_check_allows_one_millisecond_or_one_percent(known, measured, seconds, passed):
    assert Check(name="x", known=known, measured=measured, seconds=seconds).passed is passed


def test_a_self_test_of_a_handful_of_requests_is_refused():
    with pytest.raises(UsageError, match="at least 40 requests"):
        SelftestOptions(requests=5)
