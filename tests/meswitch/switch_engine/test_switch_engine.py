"""The engine as a whole, on tiny models, against `transformers`' own `generate()` of each merged expert."""

import itertools
import random
from typing import Any

import pytest

from meswitch.architecture import describe
from meswitch.core import BASE, Admitted, Event, Finished, Routed, TokensGenerated
from meswitch.weights import whole_model_bytes
from tests.meswitch.serving_models import answers, ask, generate, random_prompts, run
from tests.meswitch.switch_engine.engine_family import BIG, CONFIG, NAMES, Family, engine, of


@pytest.mark.parametrize("capacity_bytes", [BIG, 200_000, 60_000, 24_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_answers_are_those_of_the_merged_experts_in_any_batch(
    family: Family, questions: Any, capacity_bytes: int, seed: int
) -> None:
    """Room for everything, for some dense matrices, for codes only, and for one expert's codes at a time."""
    rng = random.Random(seed)
    order = rng.sample(range(len(questions)), len(questions))
    held = engine(family, capacity_bytes=capacity_bytes)
    events: list[Event] = []
    for i in order:
        name, prompt, _ = questions[i]
        held.submit(ask(f"{i}", name, prompt))
        for _ in range(rng.randrange(4)):
            events.extend(held.step())
            held.check_integrity()
    given = answers([*events, *run(held)])
    held.check_integrity()
    assert given == {f"{i}": answer for i, (_, _, answer) in enumerate(questions)}
    assert sum(held.stats().weight_bytes.values()) <= capacity_bytes + held.stats().weight_bytes["base"]


def test_an_answer_is_the_same_alone(family: Family, questions: Any) -> None:
    held = engine(family)
    for i, (name, prompt, answer) in enumerate(questions):
        assert answers(run(held, [ask(f"{i}", name, prompt)])) == {f"{i}": answer}


def test_whole_models_give_the_answers_of_their_checkpoints(family: Family) -> None:
    one_model = whole_model_bytes(family.roots[BASE], architecture=describe(CONFIG), tied=False)
    held = engine(family, weights="full", capacity_bytes=one_model)
    prompts = random_prompts(6, seed=5)
    asked = [(f"{i}", name, p) for i, (name, p) in enumerate(zip(itertools.cycle(NAMES), prompts))]
    given = answers(run(held, [ask(*question) for question in asked]))
    assert given == {i: generate(family.roots[name], p, 12) for i, name, p in asked}
    stats = held.stats()
    assert stats.weight_bytes == {"experts": one_model, "router": 0}
    assert stats.switches == 4
    assert stats.evictions == 3


def test_sampled_answers_do_not_depend_on_the_batch(family: Family) -> None:
    prompts = random_prompts(8, seed=9)
    asked = [
        ask(f"{i}", name, p, temperature=0.8, seed=i, ignore_eos=True)
        for i, (name, p) in enumerate(zip(itertools.cycle(NAMES), prompts))
    ]
    together = answers(run(engine(family), asked))
    alone = {}
    for request in asked:
        alone.update(answers(run(engine(family), [request])))
    assert together == alone
    assert len({tuple(answer) for answer in alone.values()}) == len(alone)


def test_events_of_a_request_come_in_order(family: Family) -> None:
    events = run(engine(family), [ask("r", "e1", [5, 6, 7], max_tokens=3, ignore_eos=True)])
    assert [type(event) for event in events] == [Routed, Admitted, *[TokensGenerated] * 3, Finished]
    assert [event.at_ns for event in events] == sorted(event.at_ns for event in events)
    finished = of(events, Finished)[0]
    assert (finished.reason, finished.input_tokens, finished.output_tokens) == ("length", 3, 3)


def test_generation_stops_at_the_experts_own_end_token(family: Family, questions: Any) -> None:
    name, prompt, answer = next(q for q in questions if len(set(q[2][:4])) == 4)
    events = run(engine(family, end_tokens=[answer[3]]), [ask("r", name, prompt)])
    assert answers(events) == {"r": answer[:4]}
    assert of(events, Finished)[0].reason == "stop"
    ignoring = run(engine(family, end_tokens=[answer[3]]), [ask("r", name, prompt, ignore_eos=True)])
    assert len(answers(ignoring)["r"]) == 12


def test_rows_of_one_expert_are_computed_together(family: Family) -> None:
    held = engine(family)
    for i, name in enumerate(("e1", BASE, "e1", BASE)):
        held.submit(ask(f"{i}", name, [5], ignore_eos=True))
    for _ in range(3):
        held.step()
    assert held._batch._model._switches[1]._sizes == [2, 2]
    held.close()


def test_an_idle_engine_keeps_no_evicted_matrices_alive(family: Family) -> None:
    held = engine(family)
    run(held, [ask("r", "e1", [5])])
    assert held._batch._model._switches[1]._parts == []
    held.close()
    held.close()
