"""The profile of a trace, by hand arithmetic."""

import math

import pytest

from workloads.profile import Spread, index_of_dispersion, profile_trace, reuse_distances, working_set_sizes
from workloads.trace import Trace, TraceHeader, TraceRequest


def trace_of(*requests: TraceRequest) -> Trace:
    return Trace(header=TraceHeader(name="t"), requests=requests, sha256="")


def request(index: int, t_ms: float, expert: str | None = None) -> TraceRequest:
    return TraceRequest(id=str(index), t_ms=t_ms, expert=expert, prompt="abc", output_length=10 * (index + 1))


def test_a_small_trace_has_the_numbers_that_arithmetic_gives() -> None:
    # gaps of 1, 3, 1 and 3 s: mean 2, standard deviation 1; the first arrival is at 5 s
    times = [5000.0, 6000.0, 9000.0, 10000.0, 13000.0]
    trace = trace_of(*(request(i, t, e) for i, (t, e) in enumerate(zip(times, "aabca", strict=True))))
    profile = profile_trace(trace, window_s=4.0)
    assert profile.requests == 5
    assert profile.duration_s == 8.0
    assert profile.rate_per_s == 0.5
    assert profile.gap_cv == 0.5
    # windows [0, 4) and [4, 8) hold 2 each; the arrival at 8 s opens a third, which is not whole
    assert profile.dispersion == 0.0
    # a-a stays; a-b, b-c and c-a switch
    assert profile.switch_rate == 0.75
    assert profile.experts == {"a": 3, "b": 1, "c": 1}
    # {a}, {b, c}, {a}
    assert profile.working_set == Spread(mean=4 / 3, p50=1, p90=2, max=2)
    # a after a: 0 others; the last a after b and c: 2
    assert profile.reuse_distance == Spread(mean=1.0, p50=0, p90=2, max=2)
    assert profile.prompt_chars == Spread(mean=3.0, p50=3, p90=3, max=3)
    assert profile.output_tokens == Spread(mean=30.0, p50=30, p90=50, max=50)
    assert profile.input_tokens is None
    assert profile.prefix_share is None


def test_a_single_request_has_no_rate_and_no_burstiness() -> None:
    profile = profile_trace(trace_of(request(0, 7.0)))
    undefined = (profile.rate_per_s, profile.gap_cv, profile.dispersion, profile.switch_rate, profile.working_set)
    assert undefined == (None,) * 5


def test_requests_of_one_moment_have_no_rate() -> None:
    profile = profile_trace(trace_of(request(0, 7.0), request(1, 7.0)))
    assert profile.rate_per_s is None
    assert profile.gap_cv is None


def test_dispersion_is_variance_over_mean_of_whole_windows() -> None:
    # counts 3, 1 and 2 in windows of 1 s, and a part of a fourth: variance 1, mean 2
    assert index_of_dispersion([0.0, 0.1, 0.2, 1.5, 2.0, 2.5, 3.1], 1.0) == 0.5
    assert index_of_dispersion([0.0, 1.9], 1.0) is None


def test_working_set_counts_different_experts_in_windows_that_have_any() -> None:
    assert working_set_sizes([(0.0, "a"), (0.5, "b"), (0.9, "a"), (5.0, "c")], 1.0) == [2, 1]


def test_reuse_distance_counts_different_others_since_the_last_use() -> None:
    assert reuse_distances(list("abcba")) == [1, 2]
    assert reuse_distances(list("aab")) == [0]
    assert reuse_distances([]) == []


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_reuse_distances_tell_the_hits_of_a_least_recently_used_store(capacity: int) -> None:
    names = list("abacabdcabddacbaadcb")
    held: list[str] = []
    hits = 0
    for name in names:
        if name in held:
            hits += 1
            held.remove(name)
        held = [*held, name][-capacity:]
    assert sum(distance < capacity for distance in reuse_distances(names)) == hits


def test_prefix_share_counts_blocks_seen_before() -> None:
    trace = trace_of(
        TraceRequest(id="a", t_ms=0.0, input_length=1024, hash_ids=(0, 1)),
        TraceRequest(id="b", t_ms=1.0, input_length=1024, hash_ids=(0, 2)),
    )
    profile = profile_trace(trace)
    assert profile.prefix_share == 0.25
    assert profile.input_tokens == Spread(mean=1024.0, p50=1024, p90=1024, max=1024)


@pytest.mark.parametrize("window_s", [0.0, -1.0, math.nan, math.inf])
def test_a_window_must_have_a_width(window_s: float) -> None:
    with pytest.raises(ValueError, match="window_s must be positive"):
        profile_trace(trace_of(request(0, 0.0)), window_s=window_s)
