from dataclasses import dataclass

import pytest

from meswitch.core import Residency
from meswitch.errors import CapacityError, DeltaFormatError, EngineError, StorageError, UnknownExpertError
from meswitch.policies import new_policy
from meswitch.store import ExpertStore, Loaded, LoadFailed, Source
from tests.meswitch.serving_models import HeldExecutor, InlineExecutor


@dataclass
class Weights:
    name: str
    nbytes: int = 10


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def source(name: str, nbytes: int = 10, held_bytes: int = 10) -> Source[Weights]:
    return Source(nbytes=nbytes, read_bytes=7, read=lambda: Weights(name, held_bytes))


def broken(error: Exception) -> Source[Weights]:
    def read() -> Weights:
        raise error

    return Source(nbytes=10, read_bytes=7, read=read)


def store(executor: object = None, capacity_bytes: int = 20, **sources: Source[Weights]) -> ExpertStore[Weights]:
    chosen = sources or {name: source(name) for name in "abc"}
    return ExpertStore(chosen, capacity_bytes=capacity_bytes, executor=executor or InlineExecutor(), clock_ns=Clock())


def load(held: ExpertStore[Weights], name: str) -> Loaded | LoadFailed:
    assert held.request(name)
    (ended,) = held.poll()
    held.check_integrity()
    return ended


def test_an_expert_is_resident_only_after_it_was_read() -> None:
    executor = HeldExecutor()
    held = store(executor)
    assert held.request("a")
    assert list(held.resident) == []
    assert list(held.loading) == ["a"]
    assert held.poll() == []
    held.check_integrity()
    executor.release()
    assert isinstance(held.poll()[0], Loaded)
    assert list(held.resident) == ["a"]
    assert list(held.loading) == []


def test_a_switch_says_when_from_where_how_much_and_who_had_to_go() -> None:
    held = store(capacity_bytes=10)
    load(held, "a")
    ended = load(held, "b")
    assert isinstance(ended, Loaded)
    span = ended.span
    assert (span.expert, span.source, span.moved_bytes, span.evicted) == ("b", Residency.DISK, 7, ("a",))
    assert span.decided_ns < span.ready_ns
    assert held.counters == {"switches": 2, "evictions": 1, "moved_bytes": 14}


def test_asking_again_for_what_is_there_or_coming_reads_nothing() -> None:
    executor = HeldExecutor()
    held = store(executor)
    assert held.request("a")
    assert held.request("a")
    executor.release()
    assert len(held.poll()) == 1
    assert held.request("a")
    assert held.poll() == []


def test_a_leased_expert_is_not_evicted() -> None:
    held = store(capacity_bytes=10)
    load(held, "a")
    assert held.lease("a") == Weights("a")
    assert not held.request("b")
    held.release("a")
    assert held.request("b")


def test_what_is_being_read_is_not_evicted_before_it_was_used() -> None:
    held = store(HeldExecutor(), capacity_bytes=10)
    assert held.request("a")
    assert not held.request("b")


def test_a_damaged_file_fails_its_switch_and_frees_its_room() -> None:
    held = store(capacity_bytes=10, a=broken(DeltaFormatError("a is damaged")), b=source("b"))
    ended = load(held, "a")
    assert isinstance(ended, LoadFailed)
    assert ended.expert == "a"
    assert isinstance(ended.error, DeltaFormatError)
    assert list(held.resident) == []
    assert isinstance(load(held, "b"), Loaded)
    assert held.counters["switches"] == 1


def test_a_vanished_file_is_a_named_error() -> None:
    ended = load(store(a=broken(FileNotFoundError("gone"))), "a")
    assert isinstance(ended, LoadFailed)
    assert isinstance(ended.error, StorageError)
    assert "a cannot be read: gone" in str(ended.error)


def test_weights_that_outgrow_their_booking_are_refused() -> None:
    ended = load(store(a=source("a", nbytes=10, held_bytes=11)), "a")
    assert isinstance(ended, LoadFailed)
    assert "must not grow" in str(ended.error)


def test_an_expert_larger_than_the_capacity_is_refused_at_once() -> None:
    with pytest.raises(CapacityError, match="a takes 21 bytes, 20 are left"):
        store(a=source("a", nbytes=21))


def test_integrity_notices_weights_that_changed_size() -> None:
    held = store()
    load(held, "a")
    weights = held.lease("a")
    weights.nbytes = 99
    with pytest.raises(EngineError, match="a holds 99 bytes, 10 were booked"):
        held.check_integrity()


def test_pinned_experts_are_read_at_the_start_and_stay() -> None:
    held = ExpertStore(
        {name: source(name) for name in "abc"},
        capacity_bytes=20,
        executor=InlineExecutor(),
        pinned=["b"],
        clock_ns=Clock(),
    )
    assert [ended.span.expert for ended in held.poll() if isinstance(ended, Loaded)] == ["b"]
    load(held, "a")
    load(held, "c")
    assert sorted(held.resident) == ["b", "c"]


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ("ab", "a, b take 20 bytes and c, the largest of the others, 10, 20 are left"),
        ("abc", "a, b, c take 30 bytes, 20 are left"),
    ],
)
def test_pins_that_leave_no_room_are_refused_with_the_numbers(pinned: str, message: str) -> None:
    sources = {name: source(name) for name in "abc"}
    with pytest.raises(CapacityError, match=message):
        ExpertStore(sources, capacity_bytes=20, executor=InlineExecutor(), pinned=list(pinned))


def test_all_experts_may_be_pinned_where_all_fit() -> None:
    sources = {name: source(name) for name in "ab"}
    held = ExpertStore(sources, capacity_bytes=20, executor=InlineExecutor(), pinned=["a", "b"])
    assert len(held.poll()) == 2
    held.check_integrity()


def test_an_unknown_pinned_expert_is_refused() -> None:
    with pytest.raises(UnknownExpertError, match="one of a, got 'x'"):
        ExpertStore({"a": source("a")}, capacity_bytes=20, executor=InlineExecutor(), pinned=["x"])


def test_the_store_evicts_by_its_policy() -> None:
    held = ExpertStore(
        {name: source(name) for name in "abc"},
        capacity_bytes=20,
        executor=InlineExecutor(),
        policy=new_policy("lfu"),
        clock_ns=Clock(),
    )
    for name in "aab":
        if name not in held.resident:
            load(held, name)
        held.lease(name)
        held.release(name)
    # least recently used, a would have to go
    load(held, "c")
    assert sorted(held.resident) == ["a", "c"]


def test_clearing_forgets_what_is_held_and_cancels_loads_that_have_not_begun() -> None:
    executor = HeldExecutor()
    held = store(executor)
    held.request("a")
    held.clear()
    # nobody ever runs this load: had it been waited for, `clear` would not have come back
    assert (list(held.resident), list(held.loading)) == ([], [])
