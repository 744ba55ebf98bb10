"""The engine as a whole, on tiny models, against `transformers`' own `generate()` of each merged expert."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from meswitch.architecture import describe
from meswitch.batch import Batch
from meswitch.codecs import decompress
from meswitch.config import SchedulerConfig
from meswitch.core import (
    AUTO,
    BASE,
    Admitted,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    Residency,
    Routed,
    TokensGenerated,
)
from meswitch.delta import ExpertDelta
from meswitch.errors import DeltaFormatError
from meswitch.expert_profile import ExpertProfile
from meswitch.model import SwitchModel
from meswitch.pool import DeltaPool, WholePool
from meswitch.router.base import Query, Route
from meswitch.store import Source
from meswitch.switch_engine import SwitchEngine
from meswitch.weights import read_whole_model, whole_model_bytes
from tests.meswitch.serving_models import (
    HeldExecutor,
    InlineExecutor,
    answers,
    ask,
    delta_between,
    fine_tune,
    generate,
    random_prompts,
    run,
    save_base,
    tiny_config,
)

NAMES = (BASE, "e1", "e2", "e3")
CONFIG = tiny_config()
BIG = 10**8


@dataclass(frozen=True)
class Family:
    """A base and three experts on the disk, and the experts as 4-bit deltas."""

    roots: Mapping[str, Path]
    deltas: Mapping[str, ExpertDelta]

    def oracle(self, name: str) -> Any:
        """The expert as `transformers` runs it, with base + D̂ written into its parameters."""
        model = AutoModelForCausalLM.from_pretrained(self.roots[BASE], dtype=torch.float32)
        if name == BASE:
            return model
        parameters, delta = model.state_dict(), self.deltas[name]
        for parameter, matrix in delta.matrices.items():
            parameters[parameter].add_(decompress(matrix))
        for parameter, value in delta.exact.items():
            parameters[parameter].copy_(value)
        return model


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    tmp_path = tmp_path_factory.mktemp("family")
    base = save_base(tmp_path / BASE, CONFIG)
    roots = {BASE: base, **{n: fine_tune(base, tmp_path / n, i) for i, n in enumerate(NAMES[1:], 1)}}
    deltas = {n: delta_between(base, roots[n], name=n, codec="rtn:bits=4") for n in NAMES[1:]}
    return Family(roots, deltas)


@pytest.fixture(scope="module")
def questions(family: Family) -> Sequence[tuple[str, tuple[int, ...], list[int]]]:
    """Expert, prompt and the oracle's answer, of different lengths."""
    oracles = {name: family.oracle(name) for name in NAMES}
    prompts = random_prompts(12, seed=3)
    return [(n, p, generate(oracles[n], p, 12)) for n, p in zip(itertools.cycle(NAMES), prompts)]


def delta_source(delta: ExpertDelta) -> Source[ExpertDelta]:
    return Source(nbytes=delta.nbytes, read_bytes=delta.nbytes, read=lambda: delta)


class FirstWordRouter:
    """Takes the query's first word; anything it does not know goes to the base."""

    nbytes = 1000
    kv_bytes = 24

    def route(self, queries: Sequence[Query]) -> Sequence[Route]:
        return [Route(expert=q.text.split()[0], confidence=0.75) for q in queries]


def engine(
    family: Family,
    *,
    weights: str = "delta",
    capacity_bytes: int = BIG,
    executor: Any = None,
    sources: Mapping[str, Source[Any]] | None = None,
    end_tokens: Sequence[int] = (2,),
    router: Any = None,
    clock_ns: Any = None,
    **limits: Any,
) -> SwitchEngine:
    """An engine over the family, its pool's capacity given without base and router."""
    architecture, executor = describe(CONFIG), executor or InlineExecutor()
    read = {"architecture": architecture, "tied": False}
    pool: Any
    if weights == "delta":
        chosen = sources or {n: delta_source(delta) for n, delta in family.deltas.items()}
        base = read_whole_model(family.roots[BASE], **read)
        pool = DeltaPool(base, chosen, architecture=architecture, capacity_bytes=capacity_bytes, executor=executor)
    else:
        whole = {
            n: Source(
                nbytes=whole_model_bytes(root, **read),
                read_bytes=(root / "model.safetensors").stat().st_size,
                read=lambda root=root: read_whole_model(root, **read),
            )
            for n, root in family.roots.items()
        }
        pool = WholePool(whole, capacity_bytes=capacity_bytes, executor=executor)
    config = SchedulerConfig(**{"max_rows": 4, "max_context_tokens": 64, **limits})
    model = SwitchModel(CONFIG)
    cache = model.new_cache(slots=config.max_rows, tokens=config.max_context_tokens)
    profile = ExpertProfile(tokenizer=None, end_tokens=frozenset(end_tokens))
    return SwitchEngine(
        pool=pool,
        batch=Batch(model, cache, max_rows=config.max_rows),
        profiles=dict.fromkeys(NAMES, profile),
        scheduler=config,
        router=router,
        budget_bytes=capacity_bytes,
        kv_bytes=cache.nbytes,
        **({} if clock_ns is None else {"clock_ns": clock_ns}),
    )


def of(events: Sequence[Event], kind: type[Any], request_id: str | None = None) -> list[Any]:
    return [e for e in events if isinstance(e, kind) and request_id in (None, e.request_id)]


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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_expert_without_numbers_fails_its_requests_and_leaves_nothing_to_others(
    family: Family, questions: Any, temperature: float
) -> None:
    name = "model.layers.0.input_layernorm.weight"
    good = family.deltas["e1"]
    broken = replace(good, exact={**good.exact, name: torch.full_like(good.exact[name], torch.nan)})
    held = engine(
        family, sources={**{n: delta_source(d) for n, d in family.deltas.items()}, "e1": delta_source(broken)}
    )
    events = run(held, [ask(f"{i}", "e1", [5] * 20, temperature=temperature, seed=0) for i in range(4)])
    assert [event.error for event in of(events, Failed)] == ["CheckpointError"] * 4
    assert "the logits of e1 must be finite" in of(events, Failed)[0].message
    # in the same slots, with shorter prompts
    others = [(f"{i}", *question) for i, question in enumerate(questions) if question[0] != "e1"]
    given = answers(run(held, [ask(i, expert, prompt) for i, expert, prompt, _ in others]))
    assert given == {i: answer for i, _, _, answer in others}


def test_rows_that_turn_into_no_numbers_fail_alone(
    family: Family, questions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = engine(family)
    expert, prompt, answer = questions[0]
    for request_id in ("bad", "good"):
        held.submit(ask(request_id, expert, prompt))
    events = list(held.step())
    forward = SwitchModel.forward

    def broken_row(*arguments: Any, **options: Any) -> torch.Tensor:
        logits = forward(*arguments, **options).clone()
        logits[0] = torch.nan
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(SwitchModel, "forward", broken_row)
        events += held.step()
    events += run(held)
    assert [event.request_id for event in of(events, Failed)] == ["bad"]
    assert answers(events) == {"good": answer}


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


def test_a_damaged_expert_fails_its_requests_and_the_others_go_on(family: Family, questions: Any) -> None:
    def read() -> ExpertDelta:
        raise DeltaFormatError("e1 is damaged")

    damaged: Source[ExpertDelta] = Source(nbytes=10, read_bytes=10, read=read)
    held = engine(family, sources={"e1": damaged, "e2": delta_source(family.deltas["e2"])})
    name, prompt, answer = next(q for q in questions if q[0] == "e2")
    events = run(held, [ask("bad", "e1", [5]), ask("worse", "e1", [6]), ask("good", name, prompt)])
    assert [(e.request_id, e.error, e.message) for e in of(events, Failed)] == [
        ("bad", "DeltaFormatError", "e1 is damaged"),
        ("worse", "DeltaFormatError", "e1 is damaged"),
    ]
    assert answers(events) == {"good": answer}
    assert of(run(held, [ask("again", "e1", [5])]), Failed)
    held.check_integrity()


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (ask("r", "e9", [5]), "UnknownExpertError", "no expert is called 'e9'"),
        (ask("r", AUTO, [5]), "UnknownExpertError", "must name its expert, got auto"),
        (ask("r", "e1", [5] * 60), "CapacityError", "64 tokens together, got 60 + 12"),
        (ask("r", "e1", []), "CheckpointError", "at least one input token"),
        (ask("r", "e1", [96]), "CheckpointError", "below its vocabulary, 96, got 96"),
        (ask("r", "e1", [-1, 5]), "CheckpointError", "at least 0 and below its vocabulary, 96, got -1"),
        (GenerationRequest(request_id="r", expert="e1", prompt="x"), "CheckpointError", "no tokenizer"),
    ],
)
def test_a_request_that_cannot_be_served_fails_and_says_why(
    family: Family, questions: Any, request_: GenerationRequest, error: str, message: str
) -> None:
    held = engine(family)
    name, prompt, answer = questions[1]
    events = run(held, [request_, ask("good", name, prompt)])
    (failed,) = of(events, Failed)
    assert (failed.request_id, failed.error) == ("r", error)
    assert message in failed.message
    assert "\n" not in failed.message
    assert answers(events) == {"good": answer}
    held.check_integrity()


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
