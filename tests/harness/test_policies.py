"""Replays worked out by hand, and what holds for all of them."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.policies import REPLAYED, Replay, ReplayConfig, replay
from workloads.profile import reuse_distances

SEQUENCES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=80)


def replayed(requests: Sequence[str], policy: str = "lru", **config: int) -> Replay:
    return replay(list(requests), policy, ReplayConfig(**{"slots": 2, **config}))


def test_hits_loads_and_rate_by_hand() -> None:
    # a b load, a hits, c evicts b, b evicts a
    seen = replayed("abacb")
    assert (seen.hits, seen.loads, seen.hit_rate) == (1, 4, 0.2)
    assert seen.delays == (0,) * 5
    # belady: at c, a is never wanted again, so b stays
    assert replayed("abacb", "belady").hits == 2


def test_a_pinned_expert_is_there_before_the_first_request_and_stays() -> None:
    # c is pinned and takes a load of its own; a and b take turns in the slot that is left
    seen = replay(list("abcabc"), "lru", ReplayConfig(slots=2, pinned=("c",)))
    assert (seen.hits, seen.loads) == (2, 1 + 4)


def test_loading_ahead_hides_the_loads_that_the_queue_announces() -> None:
    # a must be waited for; then one load during each position is one ahead of each request
    seen = replayed("abcabc", prefetch=1)
    assert (seen.hits, seen.late, seen.loads, seen.wasted) == (5, 0, 6, 0)


def test_a_load_ahead_that_takes_longer_than_its_notice_is_late() -> None:
    # b is asked for at position 0 and ready at 2, but served at 1; c is asked for at 2 and ready at 4, but served at 3
    seen = replayed("abbc", prefetch=1, load_positions=2)
    assert (seen.hits, seen.late, seen.loads) == (1, 2, 3)


def test_one_slot_cannot_be_loaded_ahead_while_it_is_in_use() -> None:
    seen = replayed("abab", slots=1, prefetch=2)
    assert (seen.hits, seen.loads) == (0, 4)


def test_requests_of_ready_experts_go_first_within_the_bound() -> None:
    # the second a goes before the first b: two loads instead of four
    seen = replayed("abab", slots=1, queue=2, max_delay=2)
    assert (seen.hits, seen.loads) == (2, 2)
    assert seen.delays == (0, 1, 0, 0)


def test_the_bound_on_delay_lets_the_oldest_go_at_last() -> None:
    # without it, b would wait until no a is in the queue any more
    seen = replayed("abaaaaaa", slots=1, queue=3, max_delay=2)
    assert seen.delays[1] == 2
    assert seen.loads == 3


@given(SEQUENCES, st.integers(1, 6))
def test_no_policy_beats_the_bound_and_lru_hits_where_the_reuse_distance_says(requests: list[str], slots: int) -> None:
    hits = {policy: replayed(requests, policy, slots=slots).hits for policy in REPLAYED}
    assert max(hits.values()) == hits["belady"]
    assert hits["lru"] == sum(distance < slots for distance in reuse_distances(requests))


@given(SEQUENCES, st.integers(1, 6), st.integers(2, 9), st.integers(1, 9), st.integers(0, 4), st.integers(1, 3))
def test_no_request_waits_longer_than_the_bound(
    requests: list[str], slots: int, queue: int, max_delay: int, prefetch: int, load_positions: int
) -> None:
    config = {"queue": queue, "max_delay": max_delay, "prefetch": prefetch, "load_positions": load_positions}
    seen = replayed(requests, slots=slots, **config)
    assert len(seen.delays) == len(requests)
    assert max(seen.delays) <= max_delay
    # every expert is loaded at least once, and nothing that is ready was not loaded
    assert len(set(requests)) <= seen.loads
    assert seen.hits + seen.late + seen.loads - seen.wasted >= len(requests)
    assert replayed(requests, slots=slots, **config) == seen


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"prefetch": -1}, "prefetch must be at least 0"),
        ({"queue": 4}, "go together, got queue 4 and max_delay 0"),
        ({"max_delay": 4}, "go together, got queue 1 and max_delay 4"),
    ],
)
def test_a_replay_that_makes_no_sense_is_refused(config: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replayed("ab", **config)


def test_pins_and_policies_that_do_not_fit_are_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match="2 pinned of 3 experts need 3 slots, got 2"):
        replay(list("abc"), "lru", ReplayConfig(slots=2, pinned=("a", "b")))
    with pytest.raises(UsageError, match="one of a, b, c, got 'x'"):
        replay(list("abc"), "lru", ReplayConfig(slots=2, pinned=("x",)))
    with pytest.raises(UsageError, match="one of lru, lfu, cost-aware, belady, got 'mru'"):
        replayed("a", "mru")
    with pytest.raises(UsageError, match="queue of 1"):
        replayed("a", "belady", queue=2, max_delay=1)
    with pytest.raises(UsageError, match="at least one request"):
        replayed("")


def test_which_requests_hit_is_kept_in_order_of_arrival() -> None:
    seen = replay(list("abab"), "lru", ReplayConfig(slots=2))
    assert seen.was_hit == (False, False, True, True)
    # b goes before a, since its expert is ready
    queued = replay(list("bbab"), "lru", ReplayConfig(slots=1, queue=3, max_delay=9))
    assert queued.was_hit == (False, True, False, True)
    assert sum(queued.was_hit) == queued.hits
