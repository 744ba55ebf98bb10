"""Experts between disk, host memory and slots: who is where, when one is ready, and who makes room."""

import pytest

from meswitch.core import Residency
from meswitch.store import Loaded
from tests.meswitch.cuda.tier_bench import Bench, sources
from tests.meswitch.serving_models import HeldExecutor


def test_an_expert_on_the_disk_comes_to_the_host_then_to_a_slot_and_its_span_says_so() -> None:
    executor = HeldExecutor()
    bench = Bench(sources("abc"), executor=executor)
    assert bench.tiers.request("a")
    assert bench.poll() == []
    assert list(bench.tiers.loading) == ["a"]
    assert list(bench.tiers.resident) == []
    decided_ns = 1
    executor.release()
    # in host memory now: whoever wants it asks again, and gets a slot
    assert bench.poll() == []
    assert list(bench.tiers.loading) == []
    bench.clock.now_ns = 100
    assert bench.tiers.request("a")
    assert list(bench.tiers.loading) == ["a"]
    bench.copies.finish()
    (loaded,) = bench.poll()
    assert isinstance(loaded, Loaded)
    span = loaded.span
    assert (span.expert, span.source, span.evicted) == ("a", Residency.DISK, ())
    assert span.decided_ns <= decided_ns < 100 < span.ready_ns
    assert span.moved_bytes == 32 + 20
    assert list(bench.tiers.resident) == ["a"]
    assert bench.content("a") == [1]
    assert bench.poll() == []


def test_an_expert_in_host_memory_is_copied_without_reading_its_file() -> None:
    bench = Bench(sources("abc"))
    bench.to_host("a")
    span = bench.bring("a")
    assert span.source is Residency.DISK
    bench.bring("b")
    bench.bring("c")
    assert "a" not in bench.tiers.resident
    span = bench.bring("a")
    assert span.source is Residency.HOST
    assert span.moved_bytes == 32
    assert span.evicted == ("b",)
    assert bench.sources["a"].fills == 1
    assert bench.content("a") == [1]


def test_when_nothing_runs_an_expert_is_ready_as_soon_as_its_copy_runs() -> None:
    bench = Bench(sources("ab"))
    bench.tiers.preload()
    bench.tiers.request("a")
    bench.tiers.request("b")
    (loaded,) = bench.poll()
    assert isinstance(loaded, Loaded)
    assert loaded.span.expert == "a"
    # the copy of b waits behind that of a: to admit it now would make a's rows wait as well
    assert list(bench.tiers.resident) == ["a"]
    assert list(bench.tiers.loading) == ["b"]
    slot, wait, _ = bench.tiers.hold("a")
    assert slot == bench.copies.slots[0]
    wait(3)
    assert bench.copies.started[0].waited == [3]
    bench.copies.started[0].advance(4)
    assert [ended.span.expert for ended in bench.poll()] == ["b"]


def test_while_rows_run_an_expert_is_ready_when_half_of_its_segments_are_in_place() -> None:
    bench = Bench(sources("ab"))
    bench.tiers.preload()
    bench.tiers.eager = False
    bench.tiers.request("a")
    assert bench.poll() == []
    bench.copies.started[0].advance()
    assert bench.poll() == []
    assert list(bench.tiers.loading) == ["a"]
    with pytest.raises(ValueError, match="'a' is on its way"):
        bench.tiers.hold("a")
    bench.copies.started[0].advance()
    assert [ended.span.expert for ended in bench.poll()] == ["a"]
    assert list(bench.tiers.resident) == ["a"]
    # the rest of the copy is no switch any more
    bench.copies.finish()
    assert bench.poll() == []
    assert bench.tiers.tier_counters["copies"] == 1


def test_what_refines_an_expert_may_come_after_its_rows_have_begun() -> None:
    bench = Bench(sources("ab"), slots=1, serving_segments=2)
    bench.tiers.preload()
    bench.tiers.eager = False
    bench.tiers.request("a")
    bench.copies.started[0].advance()
    assert [ended.span.expert for ended in bench.poll()] == ["a"]
    _, _, refined = bench.tiers.hold("a")
    bench.copies.started[0].advance(2)
    bench.poll()
    assert not refined()
    # nobody holds it any more, but it is still written to
    bench.tiers.release("a")
    assert not bench.tiers.request("b")
    bench.copies.started[0].advance()
    assert not refined()
    bench.poll()
    assert refined()
    assert bench.tiers.request("b")


def test_what_is_ready_stays_ready_when_rows_begin_to_run() -> None:
    bench = Bench(sources("a"))
    bench.tiers.preload()
    bench.tiers.request("a")
    bench.poll()
    bench.tiers.eager = False
    bench.poll()
    assert list(bench.tiers.resident) == ["a"]


def test_a_slot_is_overwritten_only_when_nobody_holds_it_and_its_copy_is_over() -> None:
    bench = Bench(sources("abc"), slots=2)
    bench.tiers.preload()
    bench.tiers.request("a")
    bench.tiers.request("b")
    # two copies on their way leave no room, though nobody holds them yet
    assert not bench.tiers.request("c")
    bench.copies.finish()
    bench.poll()
    bench.tiers.hold("a")
    bench.tiers.hold("a")
    bench.tiers.hold("b")
    assert not bench.tiers.request("c")
    bench.tiers.release("a")
    assert not bench.tiers.request("c")
    assert bench.copies.used == []
    bench.tiers.release("a")
    # what was given to the stream until now still reads the slot
    assert bench.copies.used == [bench.copies.slots[0]]
    assert bench.tiers.request("c")
    assert bench.copies.slots[2] == bench.copies.slots[0]
    assert "a" not in bench.tiers.resident
    assert bench.content("b") == [2]
    bench.tiers.check_integrity()


def test_who_is_kept_does_not_make_room() -> None:
    bench = Bench(sources("abcd"), slots=2)
    bench.bring("a")
    bench.bring("b")
    assert bench.bring("c", keep="a").evicted == ("b",)
    bench.to_host("d")
    assert not bench.tiers.request("d", keep=("a", "c"))


def test_slots_make_room_by_the_policy() -> None:
    bench = Bench(sources("abc"), policy="lfu")
    bench.bring("a")
    bench.bring("b")
    for _ in range(2):
        bench.content("a")
    bench.content("b")
    # least recently used would be a
    assert bench.bring("c").evicted == ("b",)


def test_an_expert_that_nobody_waits_for_any_more_is_no_load_from_the_disk_later() -> None:
    bench = Bench(sources("ab"))
    bench.to_host("a")
    # whoever wanted it is gone: a step passes without asking
    bench.poll()
    bench.poll()
    bench.clock.now_ns = 1000
    span = bench.bring("a")
    assert span.source is Residency.HOST
    assert span.decided_ns > 1000


def test_an_expert_that_waits_for_a_slot_still_comes_from_the_disk() -> None:
    bench = Bench(sources("abc"), slots=1)
    bench.bring("a")
    bench.tiers.hold("a")
    assert bench.tiers.request("b")
    assert bench.tiers.request("c")
    bench.poll()
    for _ in range(3):
        # the first finds no room, so the other is not asked for
        assert not bench.tiers.request("b")
        bench.poll()
        # neither here nor on its way: the scheduler may stop younger requests until there is room
        assert "b" not in {*bench.tiers.resident, *bench.tiers.loading}
    bench.tiers.release("a")
    assert bench.tiers.request("b")
    assert not bench.tiers.request("c")
    bench.copies.finish()
    assert [ended.span.source for ended in bench.poll()] == [Residency.DISK]
    assert bench.bring("c").source is Residency.DISK


def test_closing_waits_for_copies_before_memory_goes() -> None:
    bench = Bench(sources("a"))
    bench.bring("a")
    bench.tiers.close()
    assert bench.copies.closed == 1


def test_a_switch_that_waits_for_room_is_decided_when_it_was_first_asked_for() -> None:
    bench = Bench(sources("ab"), slots=1)
    bench.tiers.preload()
    bench.bring("a")
    bench.tiers.hold("a")
    bench.clock.now_ns = asked_ns = 1000
    assert not bench.tiers.request("b")
    bench.poll()
    bench.clock.now_ns = 2000
    bench.tiers.release("a")
    span = bench.bring("b")
    assert span.source is Residency.HOST
    assert asked_ns <= span.decided_ns < 2000
