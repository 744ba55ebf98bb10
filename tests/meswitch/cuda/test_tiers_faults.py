"""Experts that cannot be read or copied: who fails, and what a fault leaves behind."""

import pytest

from meswitch.errors import DeltaFormatError, EngineError, StorageError
from meswitch.store import LoadFailed
from tests.meswitch.cuda.tier_bench import Bench, sources
from tests.meswitch.cuda.tier_fakes import FakeSource


def test_a_damaged_expert_fails_and_leaves_its_room_to_others() -> None:
    given = sources("abc")
    given["b"].damaged = True
    bench = Bench(given, slots=1, images=1)
    bench.bring("a")
    assert bench.tiers.request("b")
    (failed,) = bench.poll()
    assert isinstance(failed, LoadFailed)
    assert failed.expert == "b"
    assert isinstance(failed.error, DeltaFormatError)
    assert str(failed.error) == "file 2 is damaged"
    # it never had a slot: the device still holds the other expert, whole
    assert list(bench.tiers.resident) == ["a"]
    assert bench.content("a") == [1]
    assert list(bench.tiers.loading) == []
    bench.bring("c")
    assert bench.content("c") == [3]
    given["b"].damaged = False
    bench.bring("b")
    assert bench.content("b") == [2]


@pytest.mark.parametrize(
    "error", [MemoryError("no memory"), RuntimeError("can't start new thread"), OSError("no disk")]
)
def test_a_machine_out_of_resources_fails_one_expert_by_name_and_serves_the_others(error: Exception) -> None:
    given = sources("ab")
    given["a"].error = error
    bench = Bench(given, images=1)
    assert bench.tiers.request("a")
    (failed,) = bench.poll()
    assert isinstance(failed, LoadFailed)
    assert isinstance(failed.error, StorageError)
    assert str(error) in str(failed.error)
    bench.bring("b")
    assert bench.content("b") == [2]


def test_a_copy_that_cannot_start_leaves_no_expert_behind() -> None:
    bench = Bench(sources("ab"))
    bench.to_host("a")
    bench.copies.broken = True
    with pytest.raises(RuntimeError, match="the device is gone"):
        bench.tiers.request("a")
    bench.tiers.check_integrity()
    assert list(bench.tiers.resident) == []
    assert list(bench.tiers.loading) == []
    bench.copies.broken = False
    assert bench.bring("a").expert == "a"


def test_a_shared_image_that_cannot_be_read_fails_all_who_wait_for_it() -> None:
    one = FakeSource(1, damaged=True)
    bench = Bench({"a": one, "b": one, "c": one})
    assert bench.tiers.request("a")
    assert bench.tiers.request("c")
    assert [(ended.expert, str(ended.error)) for ended in bench.poll() if isinstance(ended, LoadFailed)] == [
        ("a", "file 1 is damaged"),
        ("c", "file 1 is damaged"),
    ]
    assert one.fills == 1


def test_a_pinned_expert_that_cannot_be_read_is_tried_once_until_somebody_asks_for_it() -> None:
    given = sources("ab")
    given["a"].damaged = True
    bench = Bench(given, pinned=("a",))
    failed = [ended for _ in range(5) for ended in bench.poll()]
    assert [(type(ended), ended.expert) for ended in failed if isinstance(ended, LoadFailed)] == [(LoadFailed, "a")]
    assert given["a"].fills == 1
    given["a"].damaged = False
    bench.bring("a")
    assert bench.content("a") == [1]


def test_integrity_notices_a_slot_of_two_experts() -> None:
    bench = Bench(sources("ab"))
    bench.bring("a")
    bench.bring("b")
    bench.tiers._held["a"].slot = bench.tiers._held["b"].slot
    with pytest.raises(EngineError, match="each slot must be free or of one expert"):
        bench.tiers.check_integrity()


def test_integrity_notices_a_lost_host_image() -> None:
    bench = Bench(sources("ab"))
    bench.tiers._host.take()
    with pytest.raises(EngineError, match="each host image must be free or of one expert, got 3"):
        bench.tiers.check_integrity()
