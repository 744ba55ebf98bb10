"""Locality by hand, on sequences short enough to count."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.policies import ReplayConfig, replay
from harness.policies_locality import sch, srp, working_set


def test_the_working_set_is_the_mean_over_all_windows() -> None:
    # aa ab bc: 1, 2, 2
    assert working_set("aabc", 2) == pytest.approx(5 / 3)
    assert working_set("aabc", 4) == 3
    assert working_set("aabc", 5) is None


def test_srp_is_one_where_each_window_wants_one_expert() -> None:
    assert srp("aaaa", 3) == 1
    assert srp("abab", 1) == 1
    assert srp("ab", 3) is None


def test_srp_of_windows_of_different_experts() -> None:
    # both experts of each window, predicted twice, one right each time: 2 * 4 / (8 + 4)
    assert srp("aba", 2) == pytest.approx(2 / 3)
    # windows aab, abb: the more frequent one alone: 2 * 4 / (6 + 6) = 2/3; both: 2 * 6 / (12 + 6) = 2/3
    assert srp("aabb", 3) == pytest.approx(2 / 3)


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=5))
def test_srp_is_the_best_of_all_choices_of_sets(requests: list[str]) -> None:
    windows = [requests[i : i + 3] for i in range(len(requests) - 2)]
    sets = [set(chosen) for chosen in chain.from_iterable(combinations("abc", size) for size in range(4))]

    def choices(left: list[list[str]]) -> set[tuple[int, int]]:
        if not left:
            return {(0, 0)}
        rest = choices(left[1:])
        return {(h + sum(r in s for r in left[0]), p + 3 * len(s)) for s in sets for h, p in rest}

    best = max(2 * hits / (predicted + 3 * len(windows)) for hits, predicted in choices(windows))
    assert srp(requests, 3) == pytest.approx(best)


def test_sch_evicts_what_the_next_window_wants_least() -> None:
    # at c, of a and b: the next two are a, b, so they are equals and a, used longer ago, goes: a misses
    assert sch("abcab", 2, 2) == pytest.approx(1 / 5)
    # the next one is a alone, so b goes, and misses at the end
    assert sch("abcab", 1, 2) == pytest.approx(1 / 5)
    # with room for all, only first requests miss
    assert sch("abcab", 2, 3) == pytest.approx(2 / 5)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=50), st.integers(1, 20), st.integers(1, 4))
def test_sch_is_never_above_belady(requests: list[str], window: int, slots: int) -> None:
    assert sch(requests, window, slots) <= replay(requests, "belady", ReplayConfig(slots=slots)).hit_rate
