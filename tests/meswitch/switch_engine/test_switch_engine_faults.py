"""What an expert without numbers, a damaged one, or a request that cannot be served does: it fails alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from meswitch.core import AUTO, Failed, GenerationRequest
from meswitch.delta import ExpertDelta
from meswitch.errors import DeltaFormatError
from meswitch.model import SwitchModel
from meswitch.store import Source
from tests.meswitch.serving_models import answers, ask, run
from tests.meswitch.switch_engine.engine_family import Family, delta_source, engine, of


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
