"""Host memory between disk and slots: whose image it holds, who shares one, who makes room."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from meswitch.core import Residency
from meswitch.errors import CapacityError
from tests.meswitch.cuda.tier_bench import Bench, sources
from tests.meswitch.cuda.tier_fakes import NBYTES, FakeSource
from tests.meswitch.serving_models import HeldExecutor


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


def test_host_memory_without_an_image_is_refused() -> None:
    with pytest.raises(CapacityError, match="0 are left for experts"):
        Bench(sources("a"), images=0)
