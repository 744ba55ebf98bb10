"""Rows of different experts in one forward, against each expert's own `transformers` model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from meswitch.architecture import describe
from meswitch.errors import UnsupportedModelError
from meswitch.model import Segment, SwitchHead, SwitchModel, SwitchModule, SwitchNorm
from meswitch.operand import DenseOperand
from meswitch.weights import WholeModel, read_whole_model
from tests.meswitch.serving_models import fine_tune, random_prompts, save_base, tiny_config

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gemma", "phi"]


def experts(tmp_path: Path, config: Any) -> tuple[list[Path], list[WholeModel]]:
    """The base and two experts of it."""
    base = save_base(tmp_path / "base", config)
    roots = [base, *(fine_tune(base, tmp_path / f"e{i}", i) for i in (1, 2))]
    architecture = describe(config)
    return roots, [read_whole_model(root, architecture=architecture, tied=config.tie_word_embeddings) for root in roots]


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_gets_the_logits_of_its_own_expert(tmp_path: Path, kind: str) -> None:
    config = tiny_config(kind)
    roots, weights = experts(tmp_path, config)
    prompts = random_prompts(3, seed=1)
    model = SwitchModel(config)
    cache = model.new_cache(slots=3, tokens=64)
    for slot, prompt in enumerate(prompts):
        model.bind([Segment(1, weights[slot])])
        mask = cache.begin_prefill(slot, len(prompt))
        model.forward(torch.tensor([prompt]), positions=torch.arange(len(prompt))[None], mask=mask, cache=cache)
    model.bind([Segment(1, own) for own in weights])
    positions = torch.tensor([len(prompt) for prompt in prompts])
    mask = cache.begin_decode(positions, int(positions.max()))
    logits = model.forward(torch.full((3, 1), 5), positions=positions[:, None], mask=mask, cache=cache)
    for row, (root, prompt) in enumerate(zip(roots, prompts, strict=True)):
        own = AutoModelForCausalLM.from_pretrained(root, dtype=torch.float32)
        expected = own(torch.tensor([[*prompt, 5]])).logits[0, -1]
        torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


def test_neighbouring_rows_of_one_expert_share_a_segment(tmp_path: Path) -> None:
    config = tiny_config()
    _, weights = experts(tmp_path, config)
    model = SwitchModel(config)
    tokens, positions = torch.tensor([[7], [8], [9]]), torch.zeros(3, 1, dtype=torch.long)

    def logits(*segments: Segment) -> torch.Tensor:
        cache = model.new_cache(slots=3, tokens=8)
        model.bind(segments)
        mask = cache.begin_decode(positions[:, 0], 0)
        return model.forward(tokens, positions=positions, mask=mask, cache=cache)

    together = logits(Segment(2, weights[1]), Segment(1, weights[0]))
    apart = logits(Segment(1, weights[1]), Segment(1, weights[1]), Segment(1, weights[0]))
    torch.testing.assert_close(together, apart)


def test_shorter_vocabularies_are_padded_with_minus_infinity() -> None:
    head = SwitchHead("head", bias=False)

    class Weights:
        def __init__(self, vocabulary: int) -> None:
            self.vocabulary = vocabulary

        def find(self, _name: str) -> DenseOperand:
            return DenseOperand(torch.ones(self.vocabulary, 2))

    head.bind([Segment(1, Weights(2)), Segment(1, Weights(3))])
    inf = torch.inf
    assert head(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])).tolist() == [[[3, 3, -inf]], [[7, 7, 7]]]


@pytest.mark.parametrize(("kind", "expected"), [("llama", SwitchNorm), ("gemma", SwitchNorm), ("phi", SwitchModule)])
def test_norms_that_broadcast_are_computed_at_once(kind: str, expected: type[nn.Module]) -> None:
    model = SwitchModel(tiny_config(kind))
    norms = [module for name, module in model._model.named_modules() if name.endswith("input_layernorm")]
    assert [type(module) for module in norms] == [expected, expected]


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    SwitchModel(tiny_config())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gemma2", {"head_dim": 8, "attn_logit_softcapping": 50.0}, "soft-capped"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
    ],
)
def test_attention_that_is_not_handled_is_refused_by_name(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        SwitchModel(tiny_config(kind, **changes))


def test_a_context_beyond_the_sliding_window_is_refused() -> None:
    model = SwitchModel(tiny_config("mistral", sliding_window=32))
    assert model.new_cache(slots=1, tokens=32).nbytes > 0
    with pytest.raises(UnsupportedModelError, match="at most the sliding window, 32, got 33"):
        model.new_cache(slots=1, tokens=33)
