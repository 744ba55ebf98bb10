"""Experts between disk, host memory and slots: who is where, who makes room, and what a fault leaves behind."""

import random
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from meswitch.config import StoreConfig
from meswitch.core import Residency, SwitchSpan
from meswitch.cuda.copies import segment_copies
from meswitch.cuda.pinned import PinnedArena
from meswitch.cuda.tiers import Tiers
from meswitch.errors import CapacityError, DeltaFormatError, EngineError, StorageError, UnknownExpertError
from meswitch.store import Loaded, LoadFailed
from tests.meswitch.cuda.delta_experts import CPU
from tests.meswitch.cuda.tier_fakes import NBYTES, SEGMENTS, FakeCopies, FakeSource
from tests.meswitch.serving_models import HeldExecutor, InlineExecutor


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def sources(names: str) -> dict[str, FakeSource]:
    return {name: FakeSource(value) for value, name in enumerate(names, start=1)}


class Bench:
    """Tiers of fakes, and the memory behind them."""

    def __init__(
        self,
        given: Mapping[str, FakeSource],
        *,
        slots: int = 2,
        images: int = 4,
        executor: Executor | None = None,
        serving_segments: int = len(SEGMENTS),
        real_copies: bool = False,
        **config: Any,
    ) -> None:
        self.sources = given
        self.memory = torch.zeros(slots, NBYTES, dtype=torch.uint8)
        self.copies = FakeCopies(list(self.memory))
        self.clock = Clock()
        self.tiers = Tiers(
            given,
            slots=slots,
            segments=len(SEGMENTS),
            serving_segments=serving_segments,
            host=PinnedArena(NBYTES, images=images, device=CPU),
            copies=segment_copies(list(self.memory), SEGMENTS, device=CPU) if real_copies else self.copies,
            executor=executor or InlineExecutor(),
            config=StoreConfig(**config),
            ready_share=0.5,
            clock_ns=self.clock,
        )

    def poll(self) -> list[Loaded | LoadFailed]:
        ended = self.tiers.poll()
        self.tiers.check_integrity()
        return ended

    def to_host(self, names: str) -> None:
        """Bring experts into host memory without a slot."""
        for name in names:
            assert self.tiers.request(name)
            self.poll()

    def bring(self, name: str, *, keep: str = "") -> SwitchSpan:
        """Bring an expert into a slot, whole."""
        started = len(self.copies.started)
        assert self.tiers.request(name, keep=keep)
        if len(self.copies.started) == started:
            # it comes from the disk first
            self.poll()
            assert self.tiers.request(name, keep=keep)
        self.copies.finish()
        (loaded,) = self.poll()
        assert isinstance(loaded, Loaded)
        return loaded.span

    def content(self, name: str) -> list[int]:
        slot, _, _ = self.tiers.hold(name)
        self.tiers.release(name)
        found: list[int] = self.memory[slot].unique().tolist()
        return found


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


def test_an_image_stays_in_host_memory_while_it_is_copied() -> None:
    bench = Bench(sources("abc"), slots=2, images=1)
    bench.to_host("a")
    bench.tiers.request("a")
    bench.poll()
    # the only image is on its way to the device
    assert not bench.tiers.request("b")
    bench.copies.started[0].advance(4)
    bench.poll()
    assert bench.content("a") == [1]
    assert bench.tiers.request("b")
    assert bench.content("a") == [1]
    bench.bring("b")
    assert bench.content("b") == [2]
    assert bench.content("a") == [1]


def test_an_expert_whose_image_is_being_filled_is_not_evicted_for_another() -> None:
    executor = HeldExecutor()
    bench = Bench(sources("ab"), images=1, executor=executor)
    assert bench.tiers.request("a")
    assert not bench.tiers.request("b")
    assert bench.tiers.request("a")
    executor.release()
    bench.poll()
    # an older request waits for a
    assert not bench.tiers.request("b", keep=("a",))
    assert bench.tiers.request("b")


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


def test_experts_of_one_source_share_a_host_image_and_still_move_their_bytes() -> None:
    one, two = FakeSource(1), FakeSource(2)
    bench = Bench({"a": one, "b": two, "c": one}, slots=1, images=2)
    assert bench.tiers.preload() == []
    for name in "abc":
        assert bench.bring(name).source is Residency.HOST
    assert bench.content("c") == [1]
    assert (one.fills, two.fills) == (1, 1)
    counted = bench.tiers.tier_counters
    assert counted["shared_images"] == 1
    assert counted["copied_bytes"] == 3 * NBYTES
    assert counted["copy_us"] == 3 * 1500
    assert bench.tiers.counters == {"switches": 3, "evictions": 2, "moved_bytes": 3 * NBYTES}


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


def test_host_memory_is_filled_in_order_at_the_start_as_far_as_it_goes() -> None:
    given = sources("abcd")
    given["b"].damaged = True
    with ThreadPoolExecutor(max_workers=1) as executor:
        bench = Bench(given, images=2, executor=executor)
        assert [failed.expert for failed in bench.tiers.preload()] == ["b"]
    assert [given[name].fills for name in "abcd"] == [1, 1, 0, 0]
    counted = bench.tiers.tier_counters
    assert counted["host_loads"] == 1
    assert counted["host_load_bytes"] == 20
    assert counted["host_images"] == 2
    assert counted["host_bytes"] == 2 * NBYTES
    assert counted["shared_images"] == 0
    assert bench.bring("a").source is Residency.HOST


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


def test_pins_that_leave_no_slot_are_refused_with_the_numbers() -> None:
    with pytest.raises(CapacityError, match="one for the others, 3, got 2"):
        Bench(sources("abc"), slots=2, pinned=("a", "b"))
    with pytest.raises(CapacityError, match="1, got 0"):
        Bench(sources("a"), slots=0)
    with pytest.raises(UnknownExpertError, match="one of a, b, got 'x'"):
        Bench(sources("ab"), pinned=("x",))
    Bench(sources("ab"), slots=2, pinned=("a", "b"))


def test_host_memory_without_an_image_is_refused() -> None:
    with pytest.raises(CapacityError, match="0 are left for experts"):
        Bench(sources("a"), images=0)


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


def test_closing_waits_for_copies_before_memory_goes() -> None:
    bench = Bench(sources("a"))
    bench.bring("a")
    bench.tiers.close()
    assert bench.copies.closed == 1


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost-aware"])
@pytest.mark.parametrize("threaded", [False, True])
def test_whoever_holds_an_expert_reads_that_expert_whatever_happens(policy: str, threaded: bool) -> None:
    """More experts than images than slots, damaged files, random leases: 300 of them, as an engine would."""
    rng = random.Random(0)
    given = sources("abcdefghij")
    executor: Executor = ThreadPoolExecutor(max_workers=1) if threaded else InlineExecutor()
    bench = Bench(given, slots=3, images=5, executor=executor, real_copies=True, policy=policy, pinned=("j",))
    held: list[tuple[str, int]] = []
    wanted: list[str] = []
    served: Counter[str] = Counter()
    failed = 0
    # as long as it takes, however slowly a thread reads
    while served.total() < 300:
        bench.tiers.eager = not held
        for source in given.values():
            source.damaged = rng.random() < 0.1
        for ended in bench.poll():
            if isinstance(ended, LoadFailed):
                failed += 1
                # one of them may be pinned, and wanted by nobody
                wanted = [name for name in wanted if name != ended.expert]
        for name in [name for name in wanted if name in bench.tiers.resident]:
            held.append((name, bench.tiers.hold(name)[0]))
            served[name] += 1
            wanted.remove(name)
        for i, name in enumerate(wanted):
            if name not in bench.tiers.loading and not bench.tiers.request(name, keep=wanted[:i]):
                break
        bench.tiers.check_integrity()
        for name, slot in held:
            assert bench.memory[slot].unique().tolist() == [given[name].value], name
        while held and (len(held) > 4 or rng.random() < 0.5):
            bench.tiers.release(held.pop(rng.randrange(len(held)))[0])
        wanted += rng.sample(sorted(given.keys() - set(wanted)), 3 - len(wanted))
    assert failed > 5
    assert served.keys() == given.keys()
    assert bench.tiers.counters["evictions"] > 20
    assert bench.tiers.tier_counters["host_evictions"] > 10
    bench.tiers.close()
    executor.shutdown()


@pytest.mark.gpu
def test_on_a_gpu_no_copy_overtakes_a_reader_and_no_reader_a_copy() -> None:
    """The host never waits: experts are read segment by segment while they come, and given up while they are read."""
    device, rng = torch.device("cuda", torch.cuda.current_device()), random.Random(0)
    nbytes, count, leases = 8 << 20, 8, 300
    segments = [(i * nbytes // count, (i + 1) * nbytes // count) for i in range(count)]
    given = {name: FakeSource(value, nbytes=nbytes) for value, name in enumerate("abcdefghij", start=1)}
    memory = torch.zeros(3, nbytes, dtype=torch.uint8, device=device)
    found = torch.zeros(leases, count, 2, dtype=torch.uint8, device=device)
    want = []
    with ThreadPoolExecutor(max_workers=1) as executor:
        tiers = Tiers(
            given,
            slots=3,
            segments=count,
            serving_segments=count,
            host=PinnedArena(nbytes, images=5, device=device),
            copies=segment_copies(list(memory), segments, device=device),
            executor=executor,
            config=StoreConfig(),
            ready_share=0.5,
        )
        for lease in range(leases):
            name = rng.choice(sorted(given))
            tiers.eager = rng.random() < 0.5
            while name not in tiers.resident:
                tiers.request(name)
                tiers.poll()
            slot, wait, _ = tiers.hold(name)
            want.append(given[name].value)
            for segment, (start, stop) in enumerate(segments):
                wait(segment)
                if rng.random() < 0.1:
                    torch.cuda._sleep(200_000)
                found[lease, segment] = torch.stack(memory[slot, start:stop].aminmax())
            tiers.release(name)
        tiers.check_integrity()
        tiers.close()
    assert found.tolist() == [[[value, value]] * count for value in want]
    assert tiers.counters["evictions"] > 100


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
