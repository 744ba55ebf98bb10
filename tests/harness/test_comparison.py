"""Two arms on the same requests, with figures that can be checked by hand."""

import random

import pytest

from harness.comparison import compare_arms
from harness.metrics import summarise_arm
from harness.records import RequestRecord, SwitchRecord
from harness.results import ArmManifest

MS = 1_000_000


def request(arm, index, ttft_ms, *, correct=True, output="x", switch_ms=None):
    scheduled_ns = index * 10 * MS
    first_ns = scheduled_ns + round(ttft_ms * MS)
    switch = None
    if switch_ms is not None:
        ready_ns = scheduled_ns + switch_ms * MS
        switch = SwitchRecord(
            expert="a", source="disk", decided_ns=scheduled_ns, ready_ns=ready_ns, moved_bytes=100 * switch_ms
        )
    return RequestRecord(
        arm=arm,
        index=index,
        request_id=f"r{index}",
        scheduled_ns=scheduled_ns,
        sent_ns=scheduled_ns,
        first_token_ns=first_ns,
        last_token_ns=first_ns,
        finished_ns=first_ns,
        chunks=((first_ns, 1),),
        output_tokens=1,
        outcome="ok",
        output=output,
        answer="x",
        verifier="exact",
        correct=correct,
        switch=switch,
    )


def unanswered(arm, index):
    return RequestRecord(
        arm=arm, index=index, request_id=f"r{index}", scheduled_ns=index * 10 * MS, outcome="failed", correct=False
    )


def compare(ours, theirs):
    records = {"ours": ours, "theirs": theirs}
    manifest = ArmManifest(
        name="", description="", order=0, page_cache="", config={}, warm_up_requests=0, started="now"
    )
    return compare_arms(
        "ours", "theirs", records, {arm: summarise_arm(rs, [], [manifest]) for arm, rs in records.items()}
    )


def noisy(arm, count, scale):
    noise = random.Random(count)
    return [request(arm, i, scale * noise.uniform(1, 2)) for i in range(count)]


def test_a_ratio_is_of_percentiles_over_requests_that_both_answered():
    ours = [*(request("ours", i, 10 + i) for i in range(3)), request("ours", 3, 1000)]
    theirs = [*(request("theirs", i, 40) for i in range(3)), unanswered("theirs", 3)]
    comparison = compare(ours, theirs)
    assert comparison.pairs == 4
    # median of 10, 11, 12 against 40
    assert comparison.ttft_p50.value == pytest.approx(11 / 40)
    # three pairs are too few for an interval
    assert (comparison.ttft_p50.low, comparison.ttft_p50.high) == (None, None)
    # three answers are equal; a failure is a wrong answer, so that the fourth differs
    assert comparison.equal_outputs.value == 1
    assert comparison.accuracy_difference.value == pytest.approx(1 / 4)


def test_the_interval_of_a_constant_ratio_is_that_ratio():
    comparison = compare(noisy("ours", 100, 10), noisy("theirs", 100, 50))
    ratio = comparison.ttft_p50
    assert ratio.value == pytest.approx(0.2)
    # the same blocks are drawn in both arms
    assert (ratio.low, ratio.high) == (pytest.approx(0.2), pytest.approx(0.2))


def test_p99_of_300_requests_has_no_bounds_since_neither_arm_bounds_its_own():
    comparison = compare(noisy("ours", 300, 10), noisy("theirs", 300, 50))
    assert comparison.ttft_p99.value == pytest.approx(0.2)
    assert (comparison.ttft_p99.low, comparison.ttft_p99.high) == (None, None)


def test_p99_of_a_thousand_requests_has_bounds():
    ratio = compare(noisy("ours", 1000, 10), noisy("theirs", 1000, 50)).ttft_p99
    assert (ratio.low, ratio.high) == (pytest.approx(0.2), pytest.approx(0.2))


def test_p99_of_fewer_than_300_pairs_is_undefined_and_p90_is_not():
    comparison = compare(noisy("ours", 299, 10), noisy("theirs", 299, 50))
    assert comparison.ttft_p99 is None
    assert (comparison.ttft_p90.value, comparison.ttft_p90.high) == (pytest.approx(0.2), pytest.approx(0.2))


def test_verdicts_that_never_differ_leave_room_for_one_that_would():
    difference = compare(noisy("ours", 300, 10), noisy("theirs", 300, 10)).accuracy_difference
    # Wilson's upper bound of 0 in 300: 1.96^2 / (300 + 1.96^2)
    assert difference.value == 0
    assert difference.high == pytest.approx(3.8415 / 303.8415, rel=1e-3)
    assert difference.low == -difference.high


def test_switches_have_no_pairs_and_hence_no_interval():
    ours = [request("ours", i, 50, switch_ms=ms) for i, ms in enumerate((1, 2, 9))]
    theirs = [request("theirs", i, 50, switch_ms=20) for i in range(3)]
    comparison = compare(ours, theirs)
    assert comparison.switch_p50.value == pytest.approx(2 / 20)
    assert (comparison.switch_p50.low, comparison.switch_p50.high) == (None, None)
    assert comparison.moved_bytes == pytest.approx(1200 / 6000)


def test_a_baseline_of_nothing_has_no_ratio():
    comparison = compare([request("ours", 0, 50, switch_ms=1)], [request("theirs", 0, 50)])
    assert comparison.switch_p50 is None
    assert comparison.moved_bytes is None
    assert comparison.weight_bytes is None
