from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.fidelity.bench import Bench, token_batches
from harness.fidelity.subject import linear_names
from meswitch.families.smollm2.rows import Encoded

VOCABULARY = 24


def tiny(seed: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return LlamaForCausalLM(config).float().eval()


def items(count: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(7)
    made = []
    for i in range(count):
        ids = torch.randint(VOCABULARY, (4 + i % 3,), generator=generator).tolist()
        made.append(Encoded(tuple(ids), 1 + i % 3))
    return made


def test_scores_are_those_of_one_item_at_a_time() -> None:
    expert, other, data = tiny(0), tiny(1), items(7)
    bench = Bench(expert, data, tokens_per_batch=16)
    with torch.no_grad():
        wanted = [expert(input_ids=torch.tensor([item.ids])).logits[0].log_softmax(-1) for item in data]
        for own, theirs in zip(expert.parameters(), other.parameters(), strict=True):
            own.copy_(theirs)
        found = [other(input_ids=torch.tensor([item.ids])).logits[0].log_softmax(-1) for item in data]
    scores = bench.score()
    for i, item in enumerate(data):
        places = torch.arange(len(item.ids) - item.answer - 1, len(item.ids) - 1)
        labels = torch.tensor(item.ids[-item.answer :])
        p, q = wanted[i][places], found[i][places]
        assert scores.tokens[i] == item.answer
        assert scores.kl[i] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
        assert scores.nll[i] == pytest.approx(float(-q[torch.arange(item.answer), labels].sum()), rel=1e-4)
        assert scores.agree[i] == int((p.argmax(-1) == q.argmax(-1)).sum())
        assert scores.right[i] == int((q.argmax(-1) == labels).sum())


def test_expert_agrees_with_itself() -> None:
    scores = Bench(tiny(0), items(5), tokens_per_batch=64).score()
    np.testing.assert_allclose(scores.kl, 0.0, atol=1e-6)
    assert (scores.agree == scores.tokens).all()


def test_item_of_right_tokens_alone_is_one_that_greedy_decoding_gives() -> None:
    model = tiny(2)
    prompts = [[3, 5], [9, 1], [4, 4]]
    answers = []
    for prompt in prompts:
        out = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=3, do_sample=False, pad_token_id=0)
        answers.append(out[0, 2:].tolist())
    wrong = [*answers[0][:2], (answers[0][2] + 1) % VOCABULARY]
    data = [Encoded((*p, *a), 3) for p, a in zip(prompts, answers, strict=True)] + [Encoded((*prompts[0], *wrong), 3)]
    scores = Bench(model, data, tokens_per_batch=64).score()
    assert (scores.right == scores.tokens).tolist() == [True, True, True, False]


def test_batches_hold_every_item_once_and_no_more_tokens_than_allowed() -> None:
    data = [Encoded(tuple(range(length)), 1) for length in (5, 2, 9, 3, 3)]
    batches = list(token_batches(data, 9))
    assert batches == [[1, 3, 4], [0], [2]]


def test_codecs_act_on_the_decoders_linears_alone() -> None:
    names = linear_names(tiny(0))
    assert len(names) == 14
    assert "lm_head.weight" not in names
