"""Prompts as CUDA graphs against the same prompts launched kernel by kernel, on a GPU."""

import pytest
import torch

from meswitch.cuda.decoder import Decoder, rotary_tables
from meswitch.cuda.graphs import GraphPool
from meswitch.cuda.kv_cache import KvCache
from meswitch.cuda.prompt_runner import PromptRunner
from meswitch.cuda.prompt_state import prompt_tensors
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.step_state import RowState
from meswitch.cuda.whole_layout import WholeWeights
from tests.meswitch.cuda.tiny_models import EXPERTS, TinyModel, tiny_model

TOKENS = 48
CHUNK = 20


@pytest.fixture(scope="module", params=["salient:bits=2,channels=3", "nested"])
def model(request: pytest.FixtureRequest) -> TinyModel:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return tiny_model("llama", layers=2, tokens=TOKENS, codec=request.param)


class Held:
    """A copy of the model on the GPU, with a cache of its own and prompts by graphs or without."""

    def __init__(self, model: TinyModel, *, with_graphs: bool) -> None:
        device = torch.device("cuda")
        weights = WholeWeights(model.weights.layout, model.weights.memory.to(device))
        slots = SlotArena(model.slots.layout, slots=EXPERTS, device=device)
        slots.memory.copy_(model.slots.memory)
        self.cache = KvCache(model.shape, rows=4, tokens=TOKENS, dtype=torch.float32, device=device)
        self.cache.keys.zero_()
        self.cache.values.zero_()
        rotary = rotary_tables(model.config, positions=TOKENS, device=device)
        decoder = Decoder(model.shape, weights, slots, self.cache, rotary)
        self.tensors = prompt_tensors(model.shape, tokens=32, dtype=torch.float32, device=device)
        self.runner = PromptRunner(decoder, self.tensors, graphs=GraphPool(device) if with_graphs else None)
        self.runner.warm_up()
        self.cache.keys.zero_()
        self.cache.values.zero_()

    def answer(self, prompt: list[int], *, cache_row: int, slot: int, refined: bool) -> tuple[int, torch.Tensor]:
        """The first token, and the residual stream of the last chunk."""
        for start in range(0, len(prompt), CHUNK):
            tokens = torch.tensor(prompt[start : start + CHUNK], device="cuda")
            self.runner.run(tokens, start=start, cache_row=cache_row, slot=slot, wait=lambda _: None, refined=refined)
        newest = RowState(
            token=prompt[-1],
            position=len(prompt) - 1,
            cache_row=cache_row,
            slot=slot,
            refined=refined,
            vocabulary=67,
            temperature=0.0,
            seed=0,
        )
        token = self.runner.first_token(newest, wait=lambda _: None)
        return token, self.tensors.h[: len(tokens)].clone()


@pytest.mark.gpu
@torch.inference_mode()
def test_graphs_write_what_launches_write_for_any_slot_length_and_chunk(model: TinyModel) -> None:
    captured, plain = Held(model, with_graphs=True), Held(model, with_graphs=False)
    generator = torch.Generator().manual_seed(0)
    # one set of graphs serves every expert and the base, in any order, and prompts of several chunks
    cases = [(0, 7), (1, 33), (-1, 20), (1, 16), (0, 45), (-1, 3)]
    for number, (slot, length) in enumerate(cases):
        prompt = torch.randint(0, 67, (length,), generator=generator).tolist()
        for refined in (True, False) if slot >= 0 else (True,):
            got, got_h = captured.answer(prompt, cache_row=number % 4, slot=slot, refined=refined)
            wanted, wanted_h = plain.answer(prompt, cache_row=number % 4, slot=slot, refined=refined)
            assert got == wanted
            assert torch.allclose(got_h, wanted_h, rtol=1e-5, atol=1e-6)
            assert torch.allclose(captured.cache.keys, plain.cache.keys, rtol=1e-5, atol=1e-6)
            assert torch.allclose(captured.cache.values, plain.cache.values, rtol=1e-5, atol=1e-6)
