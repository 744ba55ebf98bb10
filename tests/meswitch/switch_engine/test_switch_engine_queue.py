"""Requests that wait, for a switch, for their turn, or for nothing: who is admitted when, and by what name."""

import itertools

import pytest

from meswitch.core import BASE, Admitted, Event, Failed, Finished, GenerationRequest, Residency, Routed, TokensGenerated
from tests.meswitch.serving_models import HeldExecutor, answers, ask, run
from tests.meswitch.switch_engine.engine_family import Family, FirstWordRouter, engine, of


def test_a_request_that_waited_for_a_switch_says_so_and_the_next_one_finds_the_expert(family: Family) -> None:
    held = engine(family)
    first, second = (run(held, [ask(x, "e1", [5])]) for x in ("first", "second"))
    waited = of(first, Admitted)[0]
    assert waited.residency is Residency.DISK
    assert waited.switch.expert == "e1"
    assert waited.switch.moved_bytes == family.deltas["e1"].nbytes
    assert waited.switch.decided_ns <= waited.switch.ready_ns <= waited.at_ns
    found = of(second, Admitted)[0]
    assert (found.residency, found.switch) == (Residency.RESIDENT, None)
    assert (held.stats().hits, held.stats().switches) == (1, 1)


def test_requests_share_the_switch_they_wait_for(family: Family) -> None:
    executor = HeldExecutor()
    held = engine(family, executor=executor)
    for request_id in ("a", "b"):
        held.submit(ask(request_id, "e1", [5]))
        held.step()
    executor.release()
    events = run(held)
    spans = [event.switch for event in of(events, Admitted)]
    assert len(spans) == 2
    assert spans[0] is spans[1]
    assert held.stats().switches == 1


def test_the_base_is_always_there(family: Family) -> None:
    events = run(engine(family, executor=HeldExecutor()), [ask("r", BASE, [5])])
    assert of(events, Admitted)[0].residency is Residency.RESIDENT


def test_others_go_on_while_an_expert_is_loaded(family: Family) -> None:
    executor = HeldExecutor()
    held = engine(family, executor=executor)
    held.submit(ask("slow", "e1", [5]))
    held.submit(ask("base", BASE, [5]))
    events = [event for _ in range(20) for event in held.step()]
    assert list(answers(events)) == ["base"]
    assert not of(events, Admitted, "slow")
    executor.release()
    assert list(answers(run(held))) == ["slow"]


def test_names_are_found_whatever_their_case(family: Family) -> None:
    events = run(engine(family), [ask("r", "E1", [5])])
    assert of(events, Routed)[0].expert == "e1"
    assert list(answers(events)) == ["r"]


def test_a_full_queue_refuses_aloud(family: Family) -> None:
    held = engine(family, executor=HeldExecutor(), max_queue=2)
    for i in range(3):
        held.submit(ask(f"{i}", "e1", [5]))
    (failed,) = of(held.step(), Failed)
    assert (failed.request_id, failed.error) == ("2", "CapacityError")


def test_a_request_id_is_used_once_at_a_time(family: Family) -> None:
    held = engine(family)
    held.submit(ask("r", "e1", [5]))
    with pytest.raises(ValueError, match="unique"):
        held.submit(ask("r", "e1", [5]))
    run(held)
    assert list(answers(run(held, [ask("r", "e1", [5])]))) == ["r"]


def test_requests_can_be_cancelled_wherever_they_are(family: Family) -> None:
    held = engine(family, executor=HeldExecutor())
    for request_id, name in (("running", BASE), ("loading", "e1")):
        held.submit(ask(request_id, name, [5], ignore_eos=True))
    held.step()
    held.submit(ask("new", "e1", [5]))
    for request_id in ("running", "loading", "new", "unknown"):
        held.cancel(request_id)
    events = held.step()
    assert [(e.request_id, e.reason) for e in of(events, Finished)] == [
        ("running", "cancelled"),
        ("loading", "cancelled"),
        ("new", "cancelled"),
    ]
    assert of(events, Finished)[0].output_tokens == 2
    assert not held.has_work
    held.check_integrity()


def test_a_router_chooses_for_requests_that_name_nobody(family: Family) -> None:
    held = engine(family, router=FirstWordRouter())
    chat = ({"role": "user", "content": "e2 please"}, {"role": "assistant", "content": "?"})
    routed = of(
        run(
            held,
            [
                GenerationRequest(request_id="prompt", prompt="e1 please"),
                GenerationRequest(request_id="chat", messages=chat),
                ask("tagged", "e3", [5]),
            ],
        ),
        Routed,
    )
    assert {(e.request_id, e.expert, e.confidence) for e in routed} == {
        ("prompt", "e1", 0.75),
        ("chat", "e2", 0.75),
        ("tagged", "e3", None),
    }
    assert all(e.started_ns <= e.at_ns for e in routed)
    assert held.stats().weight_bytes["router"] == 1000


def test_an_overdue_request_gets_its_turn_with_room_for_one_expert(family: Family) -> None:
    """Requests for e1 never stop coming; the one for e2 is served all the same, once it is overdue."""
    now = itertools.count(step=10**6)
    one = max(delta.nbytes for delta in family.deltas.values())
    held = engine(family, capacity_bytes=one, clock_ns=lambda: next(now), max_wait_s=0.2, max_rows=2, max_queue=4000)
    events: list[Event] = []
    held.submit(ask("e1-first", "e1", [5], ignore_eos=True))
    held.step()
    held.submit(ask("e2", "e2", [5]))
    for i in range(400):
        held.submit(ask(f"{i}", "e1", [5], ignore_eos=True))
        events.extend(held.step())
        if of(events, Finished, "e2"):
            break
    (admitted,) = of(events, Admitted, "e2")
    assert admitted.switch.evicted == ("e1",)
    assert len(of(events, Finished)) > 3


def test_the_first_tokens_do_not_hold_up_the_running_rows(family: Family) -> None:
    held = engine(family, max_rows=8)
    held.submit(ask("running", BASE, [5], ignore_eos=True))
    held.step()
    for i in range(6):
        held.submit(ask(f"{i}", BASE, [5]))
    events = held.step()
    assert len(of(events, Admitted)) == 4
    assert len(of(events, TokensGenerated, "running")) == 1
