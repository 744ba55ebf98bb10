"""Policies against sequences worked out by hand, and against an exhaustive search for the best possible."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meswitch.errors import UnknownPolicyError
from meswitch.policies import POLICIES, BeladyPolicy, EvictionPolicy, GreedyDualPolicy, LfuPolicy, new_policy
from meswitch.residency import BoundedResidency

TEXTBOOK = tuple("70120304230321201701")
"""The reference string of the operating systems' textbooks: with three frames, 9 faults are the least."""


def replay(policy: EvictionPolicy, requests: Sequence[str], slots: int) -> list[str]:
    """For each request, `hit`, or the victim's name, or `` where a slot was free."""
    held = BoundedResidency(slots, policy)
    seen = []
    for name in requests:
        if name in held:
            seen.append("hit")
        else:
            seen.append("".join(held.reserve(name, 1) or ()))
        held.touch(name)
    return seen


def test_belady_makes_the_textbooks_nine_faults() -> None:
    seen = replay(BeladyPolicy(TEXTBOOK), TEXTBOOK, 3)
    assert seen.count("hit") == 20 - 9
    # wanted again last: 7 of 7 0 1; 1 of 0 1 2; 0 of 0 2 3; never again: 4 of 4 2 3; 3 of 0 2 3; 2 of 0 1 2
    assert [victim for victim in seen if victim not in ("hit", "")] == ["7", "1", "0", "4", "3", "2"]


def test_lru_makes_the_textbooks_twelve_faults() -> None:
    assert replay(new_policy("lru"), TEXTBOOK, 3).count("hit") == 20 - 12


def test_lfu_counts_also_what_was_evicted() -> None:
    # uses: a 2, b 1, so c evicts b; c 1, so b evicts c, and has 2 now, the one before its eviction included; a is older
    assert replay(LfuPolicy(), list("aabcbc"), 2) == ["", "hit", "", "b", "c", "a"]


def test_cost_aware_forgets_old_popularity_where_lfu_does_not() -> None:
    # H: a = 3. b 1, evicted by c: L = 1, c = 2, evicted by b: L = 2, b = 3, and a, as worth but older, goes for c
    requests = list("aaabcbc")
    assert replay(GreedyDualPolicy(), requests, 2) == ["", "hit", "hit", "", "b", "c", "a"]
    assert replay(LfuPolicy(), requests, 2)[-1] == "b"


def test_cost_aware_keeps_what_moves_many_bytes_for_the_room_it_takes() -> None:
    held = BoundedResidency(30, GreedyDualPolicy())
    for name, nbytes, cost_bytes in (("dear", 10, 40), ("cheap", 10, 10), ("large", 10, 5)):
        held.reserve(name, nbytes, cost_bytes=cost_bytes)
    for name in ("large", "cheap", "dear"):
        held.touch(name)
    # H = 40 / 10, 10 / 10, 5 / 10; the second use of `large` makes it the equal of `cheap`, and more recent
    assert held.victims(20) == ("large", "cheap")
    held.touch("large")
    assert held.victims(20) == ("cheap", "large")


def test_belady_refuses_another_future_than_the_announced_one() -> None:
    policy = BeladyPolicy(["a"])
    with pytest.raises(ValueError, match="announced as a, got b"):
        policy.use("b")
    policy.use("a")
    with pytest.raises(ValueError, match="announced as the end"):
        policy.use("a")


def test_an_unknown_policy_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownPolicyError, match="one of lru, lfu, cost-aware, got 'belady'"):
        new_policy("belady")


SEQUENCES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


@given(SEQUENCES, st.integers(1, 6))
def test_no_policy_has_more_hits_than_belady(requests: list[str], slots: int) -> None:
    best = replay(BeladyPolicy(requests), requests, slots).count("hit")
    assert all(replay(new_policy(name), requests, slots).count("hit") <= best for name in POLICIES)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), st.integers(1, 3))
def test_belady_has_as_many_hits_as_the_best_of_all_choices(requests: list[str], slots: int) -> None:
    @cache
    def most_hits(place: int, held: frozenset[str]) -> int:
        if place == len(requests):
            return 0
        name = requests[place]
        if name in held:
            return 1 + most_hits(place + 1, held)
        if len(held) < slots:
            return most_hits(place + 1, held | {name})
        return max(most_hits(place + 1, held - {victim} | {name}) for victim in held)

    assert replay(BeladyPolicy(requests), requests, slots).count("hit") == most_hits(0, frozenset())
