import random
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from meswitch.config import SchedulerConfig
from meswitch.errors import CapacityError
from meswitch.scheduler import NS_PER_S, Plan, Scheduler

WAIT_S = 2.0


def scheduler(*requests: str, **config: Any) -> Scheduler:
    """A queue of requests named after their experts: `a1`, `a2`, `b1` …, arriving 1 ns apart."""
    queue = Scheduler(SchedulerConfig(max_wait_s=WAIT_S, **config))
    for i, name in enumerate(requests):
        queue.enqueue(name, expert=name[0], now_ns=i)
    return queue


def plan(
    queue: Scheduler, *, free: int = 8, resident: Collection[str] = "", loading: Collection[str] = "", now_s: float = 0
) -> Plan:
    return queue.plan(int(now_s * NS_PER_S), free_rows=free, resident=resident, loading=loading)


def admitted(result: Plan) -> Sequence[str]:
    return [waiting.request_id for waiting in result.admit]


def loads(result: Plan) -> Sequence[tuple[str, tuple[str, ...]]]:
    return [(wanted.expert, tuple(wanted.keep)) for wanted in result.load]


def test_resident_experts_are_served_first_come_first_served() -> None:
    queue = scheduler("a1", "b1", "a2", "b2")
    assert admitted(plan(queue, free=3, resident="ab")) == ["a1", "b1", "a2"]
    assert admitted(plan(queue, free=3, resident="ab")) == ["b2"]
    assert len(queue) == 0


def test_a_missing_expert_is_asked_for_and_others_go_on() -> None:
    queue = scheduler("a1", "b1", "a2")
    result = plan(queue, resident="b")
    assert admitted(result) == ["b1"]
    assert loads(result) == [("a", ())]


def test_experts_that_older_requests_want_are_kept() -> None:
    queue = scheduler("a1", "b1", "c1")
    assert loads(plan(queue, free=0, resident="a")) == [("b", ("a",)), ("c", ("a", "b"))]


def test_an_expert_that_is_loading_is_not_asked_for_again() -> None:
    assert loads(plan(scheduler("a1", "b1"), loading="a")) == [("b", ("a",))]


def test_younger_requests_wait_once_a_request_is_overdue_and_finds_no_room() -> None:
    queue = scheduler("b0", "a1", "b2")
    assert admitted(plan(queue, resident="b", now_s=WAIT_S + 1)) == ["b0"]
    assert admitted(plan(queue, resident="b", now_s=WAIT_S + 1)) == []
    assert admitted(plan(queue, resident="ab", now_s=WAIT_S + 1)) == ["a1", "b2"]


def test_an_overdue_request_that_is_being_loaded_holds_nobody_up() -> None:
    queue = scheduler("a1", "b1")
    assert admitted(plan(queue, resident="b", loading="a", now_s=WAIT_S + 1)) == ["b1"]


def test_a_request_before_its_bound_holds_nobody_up() -> None:
    queue = scheduler("a1", "b1")
    assert admitted(plan(queue, resident="b", now_s=WAIT_S - 0.001)) == ["b1"]


def test_a_full_queue_refuses() -> None:
    queue = scheduler("a1", "a2", max_queue=2)
    with pytest.raises(CapacityError, match="at most 2"):
        queue.enqueue("a3", expert="a", now_ns=3)
    assert admitted(plan(queue, resident="a")) == ["a1", "a2"]


def test_a_removed_request_is_not_admitted() -> None:
    queue = scheduler("a1", "a2", "b1")
    assert queue.remove("a1")
    assert not queue.remove("a1")
    assert queue.remove("b1")
    assert admitted(plan(queue, resident="ab")) == ["a2"]


def test_all_requests_of_an_expert_can_be_removed() -> None:
    queue = scheduler("a1", "b1", "a2")
    assert [waiting.request_id for waiting in queue.remove_all("a")] == ["a1", "a2"]
    assert queue.remove_all("a") == []
    assert len(queue) == 1


def test_grouped_order_brings_the_expert_that_most_requests_wait_for() -> None:
    waiting = ("a1", "b1", "c1", "c2", "b2", "c3")
    assert [name for name, _ in loads(plan(scheduler(*waiting)))] == ["a", "b", "c"]
    result = plan(scheduler(*waiting, order="grouped"))
    assert loads(result) == [("c", ()), ("b", ("c",)), ("a", ("c", "b"))]


def test_grouped_order_serves_residents_out_before_it_replaces_them() -> None:
    queue = scheduler("b1", "b2", "a1", "c1", order="grouped")
    # no row is free: the resident expert has a younger request waiting, and is kept nevertheless
    assert loads(plan(queue, free=0, resident="a", loading="c")) == [("b", ("a", "c"))]


def test_in_grouped_order_an_overdue_request_goes_before_the_largest_group() -> None:
    queue = scheduler("a1", order="grouped")
    for name in ("b1", "b2", "c1"):
        queue.enqueue(name, expert=name[0], now_ns=int(WAIT_S * NS_PER_S))
    assert loads(plan(queue, now_s=WAIT_S)) == [("a", ()), ("b", ("a",)), ("c", ("a", "b"))]


def test_equal_groups_are_brought_by_age() -> None:
    assert [name for name, _ in loads(plan(scheduler("b1", "a1", order="grouped")))] == ["b", "a"]


@pytest.mark.parametrize("order", ["first-come", "grouped"])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_waits_for_ever_with_room_for_one_expert(seed: int, order: str) -> None:
    """One expert fits, two rows, six steps a request: each request runs within the bound plus the rows before it."""
    rng, queue = random.Random(seed), scheduler(order=order)
    resident, running, waits = "a", list[tuple[str, int]](), {}
    for step in range(600):
        now_s = step / 10
        running = [(expert, left - 1) for expert, left in running if left > 1]
        if step < 300 and rng.random() < 0.3:
            # one expert is asked for far more often than the others
            queue.enqueue(f"{step}", expert=rng.choice("aaaaaabc"), now_ns=int(now_s * NS_PER_S))
        result = plan(queue, free=2 - len(running), resident=resident, now_s=now_s)
        for waiting in result.admit:
            running.append((waiting.expert, 6))
            waits[waiting.request_id] = now_s - waiting.arrived_ns / NS_PER_S
        if result.load and not running:
            resident = result.load[0].expert
    assert len(queue) == 0
    assert max(waits.values()) < 20
