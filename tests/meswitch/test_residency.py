import pytest
from hypothesis import given
from hypothesis import strategies as st

from meswitch.policies import POLICIES, LfuPolicy, new_policy
from meswitch.residency import BoundedResidency


def residency(*names: str, capacity_bytes: int = 30) -> BoundedResidency:
    held = BoundedResidency(capacity_bytes)
    for name in names:
        held.reserve(name, 10)
    return held


def test_the_least_recently_used_goes_first() -> None:
    held = residency("a", "b", "c")
    held.touch("a")
    assert held.reserve("d", 10) == ("b",)
    assert list(held) == ["c", "a", "d"]


def test_no_more_goes_than_must() -> None:
    held = residency("a", "b")
    assert held.reserve("c", 10) == ()
    assert held.reserve("d", 15) == ("a", "b")
    assert held.used_bytes == 25


def test_a_leased_name_stays_until_its_last_lease_is_released() -> None:
    held = residency("a", "b", "c")
    held.lease("b")
    held.lease("b")
    held.touch("a")
    held.release("b")
    assert held.victims(20) == ("c", "a")
    held.release("b")
    assert held.victims(20) == ("c", "b")


def test_what_cannot_fit_evicts_nothing() -> None:
    held = residency("a", "b", "c")
    held.lease("a")
    assert held.reserve("d", 25) is None
    assert list(held) == ["b", "c", "a"]


def test_kept_names_are_no_victims() -> None:
    assert residency("a", "b", "c").reserve("d", 10, keep={"a"}) == ("b",)
    assert residency("a", "b", "c").reserve("d", 10, keep={"a", "b", "c"}) is None


def test_mistakes_are_refused() -> None:
    held = residency("a")
    held.lease("a")
    with pytest.raises(ValueError, match="leased"):
        held.remove("a")
    with pytest.raises(ValueError, match="reserved once"):
        held.reserve("a", 1)
    with pytest.raises(ValueError, match="only a leased name"):
        held.release("b")
    with pytest.raises(ValueError, match="at least 0"):
        BoundedResidency(-1)


def test_a_pinned_name_stays_although_nobody_leases_it() -> None:
    held = BoundedResidency(30, pinned={"a", "z"})
    for name in "abc":
        held.reserve(name, 10)
    assert held.reserve("d", 10) == ("b",)
    assert held.victims(20) == ("c", "d")
    assert held.victims(30) is None


def test_the_policy_chooses_and_recency_decides_between_equals() -> None:
    held = BoundedResidency(30, LfuPolicy())
    for name in "abc":
        held.reserve(name, 10)
    for name in "abca":
        held.touch(name)
    assert held.victims(20) == ("b", "c")
    held.touch("b")
    assert held.victims(20) == ("c", "a")


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 40), st.booleans()), max_size=40))
def test_capacity_leases_and_pins_hold_whatever_is_asked_for(policy: str, asked: list[tuple[str, int, bool]]) -> None:
    held = BoundedResidency(60, new_policy(policy), pinned={"f"})
    protected: set[str] = set()
    for name, nbytes, lease in asked:
        if name not in held:
            held.reserve(name, nbytes)
        if lease and name in held:
            held.lease(name)
            protected.add(name)
        if "f" in held:
            protected.add("f")
        assert held.used_bytes <= 60
        assert all(other in held for other in protected)
