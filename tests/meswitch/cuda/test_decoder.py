import pytest
import torch

from meswitch.cuda.prompt_runner import PromptRunner
from meswitch.cuda.prompt_state import prompt_tensors
from meswitch.cuda.step_state import RowState, StepState
from tests.meswitch.cuda.tiny_models import CONFIGS, CPU, TinyModel, tiny_model

pytestmark = pytest.mark.usefixtures("few_programs")


def answer(model, prompt, count):
    """Greedy tokens of a `transformers` model."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def row(model: TinyModel, *, token: int, position: int, cache_row: int, slot: int, refined: bool = True) -> RowState:
    return RowState(
        token=token,
        position=position,
        cache_row=cache_row,
        slot=slot,
        refined=refined,
        vocabulary=model.shape.vocabulary,
        temperature=0.0,
        seed=0,
    )


def prefill(model: TinyModel, prompt, *, cache_row, slot, chunks, refined=True):
    waited, start = [], 0
    tensors = prompt_tensors(model.shape, tokens=16, dtype=torch.float32, device=CPU)
    runner = PromptRunner(model.decoder, tensors, graphs=None)
    for size in chunks:
        chunk = torch.tensor(prompt[start : start + size])
        runner.run(chunk, start=start, cache_row=cache_row, slot=slot, wait=waited.append, refined=refined)
        start += size
    newest = row(model, token=prompt[-1], position=len(prompt) - 1, cache_row=cache_row, slot=slot, refined=refined)
    token = runner.first_token(newest, wait=waited.append)
    layers = len(model.weights.layers)
    assert waited == [*range(layers + 1)] * len(chunks) + [layers + 1]
    return token


@pytest.mark.parametrize(
    ("kind", "layers"), [("qwen2", 1), *(pytest.param(kind, 2, marks=pytest.mark.slow) for kind in CONFIGS)]
)
def test_rows_of_different_experts_answer_as_each_expert_alone(kind, layers):
    model = tiny_model(kind, layers=layers)
    prompts = [[5, 9, 33, 2], [7, 7, 1], [60, 3, 18, 4, 21]]
    slots = [0, 1, -1]
    rows = []
    for cache_row, (prompt, slot) in enumerate(zip(prompts, slots, strict=True)):
        token = prefill(model, prompt, cache_row=cache_row, slot=slot, chunks=[len(prompt)])
        rows.append(row(model, token=token, position=len(prompt), cache_row=cache_row, slot=slot))
    # one more row than requests: it must touch nothing
    state = StepState(4, device=CPU)
    state.load(rows)
    found = [[r.token] for r in rows]
    for _ in range(2):
        model.decoder.step(state.tensors, width=2)
        for tokens, token in zip(found, state.read(3), strict=True):
            tokens.append(token)
    wanted = [answer(model.models[slot], prompt, 3) for prompt, slot in zip(prompts, slots, strict=True)]
    assert found == wanted


def test_a_tied_head_uses_the_experts_own_table():
    model = tiny_model("llama", tied=True)
    token = prefill(model, [5, 9, 33, 2], cache_row=0, slot=1, chunks=[4])
    assert [token] == answer(model.models[1], [5, 9, 33, 2], 1)


def test_a_prompt_in_chunks_gives_the_token_of_the_whole_prompt():
    model = tiny_model("llama")
    prompt = [5, 9, 33, 2, 8, 8, 41]
    assert prefill(model, prompt, cache_row=2, slot=0, chunks=[3, 3, 1]) == answer(model.models[0], prompt, 1)[0]


def test_a_batch_of_the_base_alone_needs_no_deltas():
    model = tiny_model("llama")
    token = prefill(model, [5, 9, 33, 2], cache_row=0, slot=-1, chunks=[4])
    state = StepState(1, device=CPU)
    state.load([row(model, token=token, position=4, cache_row=0, slot=-1)])
    model.decoder.step(state.tensors, width=None)
    assert [token, *state.read(1)] == answer(model.models[-1], [5, 9, 33, 2], 2)


@pytest.mark.parametrize("planes", [1, 2])
def test_a_first_bit_plane_serves_alone_and_the_second_refines_it(planes):
    model = tiny_model("llama", codec="nested", planes=planes)
    refined = planes == 2
    prompts, slots = [[5, 9, 33, 2], [7, 7, 1]], [0, 1]
    rows = []
    for cache_row, (prompt, slot) in enumerate(zip(prompts, slots, strict=True)):
        token = prefill(model, prompt, cache_row=cache_row, slot=slot, chunks=[len(prompt)], refined=refined)
        rows.append(row(model, token=token, position=len(prompt), cache_row=cache_row, slot=slot, refined=refined))
    state = StepState(2, device=CPU)
    state.load(rows)
    model.decoder.step(state.tensors, width=2)
    found = [[r.token, token] for r, token in zip(rows, state.read(2), strict=True)]
    assert found == [answer(model.models[slot], prompt, 2) for prompt, slot in zip(prompts, slots, strict=True)]
