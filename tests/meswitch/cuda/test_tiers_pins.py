"""Pinned experts between disk, host memory and slots: they come at the start and stay."""

import pytest

from meswitch.errors import CapacityError, UnknownExpertError
from tests.meswitch.cuda.tier_bench import Bench, sources


def test_pinned_experts_get_their_slots_at_the_start_and_keep_them() -> None:
    bench = Bench(sources("abcd"), slots=2, pinned=("b",))
    for _ in range(3):
        bench.poll()
        bench.copies.finish()
    assert list(bench.tiers.resident) == ["b"]
    for name in "acda":
        bench.bring(name)
    assert "b" in bench.tiers.resident
    assert bench.content("b") == [2]


def test_more_pinned_experts_than_host_images_come_one_after_the_other() -> None:
    bench = Bench(sources("abcd"), slots=4, images=1, pinned=("a", "b", "c"))
    bench.tiers.preload()
    for _ in range(10):
        bench.poll()
        bench.copies.finish()
    assert list(bench.tiers.resident) == ["a", "b", "c"]
    assert [bench.content(name) for name in "abc"] == [[1], [2], [3]]
    assert bench.sources["d"].fills == 0


def test_pins_that_leave_no_slot_are_refused_with_the_numbers() -> None:
    with pytest.raises(CapacityError, match="one for the others, 3, got 2"):
        Bench(sources("abc"), slots=2, pinned=("a", "b"))
    with pytest.raises(CapacityError, match="1, got 0"):
        Bench(sources("a"), slots=0)
    with pytest.raises(UnknownExpertError, match="one of a, b, got 'x'"):
        Bench(sources("ab"), pinned=("x",))
    Bench(sources("ab"), slots=2, pinned=("a", "b"))
