from unittest.mock import Mock

import pytest
import torch

from meswitch.core import SamplingParams
from meswitch.cuda.batch import CudaBatch
from meswitch.cuda.lease import CudaLease, always
from meswitch.cuda.prompt_runner import PromptRunner
from meswitch.cuda.prompt_state import prompt_tensors
from meswitch.cuda.runners import Runners
from meswitch.cuda.step_runner import StepRunner
from tests.meswitch.cuda.test_decoder import answer
from tests.meswitch.cuda.tiny_models import CPU, TinyModel, tiny_model

pytestmark = pytest.mark.usefixtures("few_programs")


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny_model("llama", rows=3)


def runners(model: TinyModel) -> Runners:
    tensors = prompt_tensors(model.shape, tokens=16, dtype=torch.float32, device=CPU)
    steps = StepRunner(model.decoder, max_rows=3, device=CPU, graphs=None)
    return Runners(PromptRunner(model.decoder, tensors, graphs=None), steps)


@pytest.fixture
def batch(model) -> CudaBatch:
    found = runners(model)
    return CudaBatch(lambda _: found, max_rows=3, max_tokens=32, chunk_tokens=4, device=CPU)


def lease(model, slot, wait=lambda _: None, refined=always):
    return CudaLease(weights=model.weights, slot=slot, vocabulary=model.shape.vocabulary, wait=wait, refined=refined)


def run(batch, rows, steps):
    """The tokens of each row in each of some calls of `decode`."""
    found = {row: [] for row in rows}
    for _ in range(steps):
        for row, token in batch.decode():
            found[row].append(token)
    return [found[row] for row in rows]


def test_rows_join_and_leave_while_others_go_on(model, batch):
    greedy = SamplingParams()
    first = batch.new_row("a", lease(model, 0), greedy)
    batch.add(first, [5, 9, 33])
    (early,) = run(batch, [first], 2)
    second = batch.new_row("b", lease(model, 1), greedy)
    batch.add(second, [7, 7, 1, 8])
    late, other = run(batch, [first, second], 2)
    batch.discard(first)
    (rest,) = run(batch, [second], 1)
    assert early + late == answer(model.models[0], [5, 9, 33], 4)
    assert other + rest == answer(model.models[1], [7, 7, 1, 8], 3)


def test_a_long_prompt_is_computed_in_chunks_between_the_tokens_of_others(model, batch):
    short = batch.new_row("a", lease(model, 0), SamplingParams())
    batch.add(short, [5, 9, 33, 2])
    run(batch, [short], 1)
    long = batch.new_row("b", lease(model, 1), SamplingParams())
    prompt = [5, 9, 33, 2, 8, 8, 41, 3, 3]
    batch.add(long, prompt)
    tokens, answered = run(batch, [short, long], 3)
    assert len(tokens) == 3
    assert answered == answer(model.models[1], prompt, 1)


def test_rows_are_given_back_when_their_requests_end(model, batch):
    rows = [batch.new_row("a", lease(model, 0), SamplingParams()) for _ in range(3)]
    for row in rows:
        batch.add(row, [1, 2])
    assert (batch.free_rows, len(batch)) == (0, 3)
    run(batch, rows, 2)
    for row in rows:
        batch.discard(row)
        batch.discard(row)
    assert (batch.free_rows, len(batch)) == (3, 0)
    assert batch.decode() == []


def test_a_prompt_waits_for_every_segment_of_its_expert_in_order(model, batch):
    waited = []
    row = batch.new_row("a", lease(model, 0, waited.append), SamplingParams())
    batch.add(row, [1, 2])
    batch.decode()
    assert waited == [0, 1, 2]


def test_an_expert_whose_logits_are_no_numbers_gives_no_token(model, batch):
    broken = tiny_model("llama", rows=3)
    broken.weights.final_norm.fill_(float("nan"))
    found = runners(broken)
    own = CudaBatch(lambda _: found, max_rows=3, max_tokens=32, chunk_tokens=4, device=CPU)
    row = own.new_row("base", lease(broken, -1), SamplingParams())
    own.add(row, [1, 2])
    assert own.decode() == [(row, None)]


def test_a_seeded_row_draws_the_same_tokens_alone_and_beside_others(model, batch):
    drawn = SamplingParams(temperature=1.5, seed=11)
    alone = batch.new_row("a", lease(model, 0), drawn)
    batch.add(alone, [5, 9, 33])
    (wanted,) = run(batch, [alone], 3)
    batch.discard(alone)
    other = batch.new_row("b", lease(model, 1), SamplingParams(temperature=1.0))
    rows = [other, batch.new_row("a", lease(model, 0), drawn)]
    for row in rows:
        batch.add(row, [5, 9, 33])
    # both prompts take two chunks of four tokens
    found = run(batch, rows, 4)
    assert found[1][:3] == wanted
    assert len(set(wanted)) > 1


def test_rows_without_a_seed_draw_their_own(model, batch):
    seeds = {batch.new_row("a", lease(model, 0), SamplingParams(temperature=1.0)).seed for _ in range(4)}
    assert len(seeds) == 4


def test_tokens_before_the_second_bit_plane_are_counted_and_those_after_it_use_both(model):
    planes = tiny_model("llama", codec="nested", planes=1, rows=3)
    found = runners(planes)
    batch = CudaBatch(lambda _: found, max_rows=3, max_tokens=32, chunk_tokens=4, device=CPU)
    came = []
    row = batch.new_row("a", lease(planes, 0, refined=lambda: bool(came)), SamplingParams())
    batch.add(row, [5, 9, 33])
    (before,) = run(batch, [row], 2)
    assert before == answer(planes.models[0], [5, 9, 33], 2)
    assert batch.first_plane_tokens == 2
    planes.slots.refine(0)
    came.append(True)
    run(batch, [row], 1)
    assert batch.first_plane_tokens == 2
    assert row.state().refined


def test_a_prompt_that_fails_costs_the_running_rows_no_token(model, batch, monkeypatch):
    row = batch.new_row("a", lease(model, 0), SamplingParams())
    batch.add(row, [5, 9, 33])
    (before,) = run(batch, [row], 1)
    other = batch.new_row("b", lease(model, 1), SamplingParams())
    batch.add(other, [7, 7])
    with monkeypatch.context() as patch:
        patch.setattr(model.decoder, "compute", Mock(side_effect=RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            batch.decode()
    batch.discard(other)
    (after,) = run(batch, [row], 1)
    assert before + after == answer(model.models[0], [5, 9, 33], 2)


def test_a_prompt_that_fails_costs_the_prompts_before_it_no_token(model, batch):
    failing = Mock(side_effect=[RuntimeError("copy failed"), *[None] * 99])
    rows = [
        batch.new_row("a", lease(model, 0), SamplingParams()),
        batch.new_row("b", lease(model, 1, failing), SamplingParams()),
    ]
    for row in rows:
        batch.add(row, [5, 9])
    with pytest.raises(RuntimeError, match="copy failed"):
        batch.decode()
    assert batch.decode() == [(rows[0], answer(model.models[0], [5, 9], 1)[0])]
    tokens, late = run(batch, rows, 2)
    assert tokens == answer(model.models[0], [5, 9], 3)[1:]
    assert late == answer(model.models[1], [5, 9], 2)


def test_a_row_that_left_before_its_first_token_was_returned_gets_none(model, batch):
    failing = Mock(side_effect=RuntimeError("copy failed"))
    rows = [
        batch.new_row("a", lease(model, 0), SamplingParams()),
        batch.new_row("b", lease(model, 1, failing), SamplingParams()),
    ]
    for row in rows:
        batch.add(row, [5, 9])
    with pytest.raises(RuntimeError, match="copy failed"):
        batch.decode()
    for row in rows:
        batch.discard(row)
    assert batch.decode() == []
    assert batch.free_rows == 3
