"""The pocket model against transformers: the same tokens, the same logits, the same answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies
from transformers import AutoModelForCausalLM, AutoTokenizer

from meswitch.families.pocket.forward import logits_of
from meswitch.families.pocket.generation import greedy_answers, next_token_logits, text_of
from meswitch.families.pocket.model import new_model, pocket_config, pocket_tokenizer, save_checkpoint
from meswitch.families.pocket.tokens import ANSWER, BOS, EOS, PAD, encode_pairs, encode_prompt

PROMPTS = ["hi", "What is a somewhat longer prompt?", "xyz 1", "é…"]


@pytest.fixture(scope="module")
def model() -> Any:
    return new_model(pocket_config(hidden=96, layers=2, intermediate=64), seed=0).eval()


@given(strategies.text(alphabet=strategies.characters(exclude_categories=["Cs"]), max_size=40))
def test_tokenizer_gives_bos_bytes_answer_and_decodes_to_the_same_text(text: str) -> None:
    if any(name in text for name in ("<bos>", "<answer>", "<eos>", "<pad>")):
        return
    ids = pocket_tokenizer()(text)["input_ids"]
    assert ids == [BOS, *text.encode(), ANSWER] == encode_prompt(text)
    assert pocket_tokenizer().decode(ids, skip_special_tokens=True) == text


def test_pairs_are_padded_right_and_know_where_the_answer_starts() -> None:
    ids, starts = encode_pairs([("ab", "c"), ("a", "")], 6)
    assert ids.tolist() == [[BOS, 97, 98, ANSWER, 99, EOS], [BOS, 97, ANSWER, EOS, PAD, PAD]]
    assert starts.tolist() == [4, 3]


def test_a_pair_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 5 tokens, got 6"):
        encode_pairs([("ab", "c")], 5)


def test_written_out_forward_equals_transformers(model: Any) -> None:
    ids = torch.randint(0, 256, (3, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model, ids), model(ids).logits, rtol=1e-5, atol=1e-5)


def test_greedy_answers_of_a_batch_equal_transformers_one_by_one(model: Any) -> None:
    answers = greedy_answers(model, PROMPTS, max_tokens=12)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([encode_prompt(prompt)])
        whole = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=PAD)[0].tolist()
        assert answer == text_of(whole[ids.shape[1] :])


def test_rows_that_finish_early_do_not_change_the_others(model: Any) -> None:
    # rows whose next token is a byte are turned into rows that end at once, so that the batch shrinks
    with torch.no_grad():
        first = {int(next_token_logits(model, [prompt]).argmax()) for prompt in PROMPTS[:2]}
        ending = new_model(model.config, 0)
        ending.load_state_dict(model.state_dict())
        table = ending.model.embed_tokens.weight
        for token in first:
            table[EOS] = table[token] * 1.5
    together = greedy_answers(ending, PROMPTS, max_tokens=12)
    assert together == [greedy_answers(ending, [prompt], max_tokens=12)[0] for prompt in PROMPTS]
    assert "" in together


def test_text_ends_at_the_first_special_token() -> None:
    assert text_of([104, 105, EOS, 104]) == "hi"


def test_checkpoint_loads_with_the_auto_classes(model: Any, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path, torch.float16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float16
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"] == [BOS, 97, ANSWER]
    assert loaded.generation_config.eos_token_id == EOS
    assert model.lm_head.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight.half(), rtol=0, atol=0)
