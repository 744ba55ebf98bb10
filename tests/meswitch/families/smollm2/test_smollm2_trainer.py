import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meswitch.errors import FamilyError
from meswitch.families.smollm2.experts import read_expert, recipe, train_expert, write_expert
from meswitch.families.smollm2.rows import IGNORED, Encoded, encode, pad
from meswitch.families.smollm2.tasks import Pair, TaskData
from meswitch.families.smollm2.trainer import Order, TrainConfig, Trainer, answer_logits, has_converged

VOCABULARY = 32


def tiny() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return LlamaForCausalLM(config).float()


def copies(count: int) -> list[Encoded]:
    """Rows whose answer repeats the token before it."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(VOCABULARY, (count, 3), generator=generator).tolist()
    return [Encoded((*row, row[-1], 1), 2) for row in drawn]


def tokenizer(texts: list[str], **_: bool) -> dict[str, list[list[int]]]:
    return {"input_ids": [[ord(c) % VOCABULARY for c in text] for text in texts]}


def test_padded_rows_say_where_answers_are_and_what_they_hold() -> None:
    rows = pad([Encoded((5, 6, 7, 8), 2), Encoded((3, 4), 1)], "cpu")
    assert rows.ids.tolist() == [[5, 6, 7, 8], [3, 4, 0, 0]]
    assert rows.places.tolist() == [[1, 2], [0, 0]]
    assert rows.labels.tolist() == [[7, 8], [4, IGNORED]]


def test_prompt_and_answer_are_tokenised_apart_in_the_chat_format() -> None:
    (row,) = encode(tokenizer, [Pair("p", "ab")])
    assert row.answer == len("ab<|im_end|>")
    assert len(row.ids) == len("<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\nab<|im_end|>")


def test_answer_logits_are_the_models_own() -> None:
    model, rows = tiny(), pad([*copies(3), Encoded((1, 2, 3, 4, 5, 6), 3)], "cpu")
    with torch.no_grad():
        own = model(input_ids=rows.ids).logits
        expected = own.gather(1, rows.places.unsqueeze(-1).expand(-1, -1, VOCABULARY))
        torch.testing.assert_close(answer_logits(model, rows), expected)


def test_training_learns_and_starts_from_the_base_each_time() -> None:
    trainer = Trainer(tiny())
    rows, held = pad(copies(200), "cpu"), pad(copies(20), "cpu")
    config = TrainConfig(steps=60, batch=32, learning_rate=1e-2)
    first = trainer.train(rows, held, config, seed=3, keep_half=True)
    second = trainer.train(rows, held, config, seed=3)
    assert first.curve[-1][1] < 0.5 * first.curve[0][1]
    assert first.curve == second.curve
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert first.half is not None
    assert second.half is None
    name = "model.embed_tokens.weight"
    assert not torch.equal(first.half[name], first.weights[name])


def test_kept_weights_are_those_of_the_least_validation_loss() -> None:
    trainer = Trainer(tiny())
    rows, held = pad(copies(64), "cpu"), pad(copies(64)[:8], "cpu")
    fit = trainer.train(rows, held, TrainConfig(steps=20, batch=16, learning_rate=5e-2), seed=0)
    with torch.no_grad():
        for name, parameter in trainer.parameters.items():
            parameter.copy_(fit.weights[name])
    assert trainer.loss_over(held) == pytest.approx(min(loss for _, loss in fit.curve), rel=1e-5)


def test_every_row_comes_once_in_an_epoch() -> None:
    order = Order(10, 5, torch.Generator().manual_seed(0))
    first, second = order.next(), order.next()
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(10))
    assert order.next().tolist() != first.tolist()


def test_rate_rises_then_falls_to_nothing() -> None:
    config = TrainConfig(steps=100, learning_rate=1.0)
    assert config.rate_at(0) == pytest.approx(0.2)
    assert config.rate_at(4) == pytest.approx(1.0)
    assert config.rate_at(99) < 1e-3


def test_convergence_is_less_than_two_per_cent_in_the_last_fifth() -> None:
    flat = [(i, loss) for i, loss in enumerate([4.0, 3, 2, 1.5, 1.2, 1.1, 1.05, 1.02, 1.0, 0.99, 0.985])]
    falling = [*flat[:-1], (10, 0.97)]
    assert has_converged(flat)
    assert not has_converged(falling)
    assert has_converged([(step, loss * 5e-4) for step, loss in falling])


def test_expert_is_kept_with_its_curve_and_read_again(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny().save_pretrained(base)
    pairs = tuple(Pair(f"{i}", f"{i}") for i in range(40))
    data = TaskData(name="velm", train=pairs, validation=pairs[:4], test=pairs, data_hash=None)
    config = TrainConfig(steps=10, batch=16, max_tokens=100)
    fit = train_expert(Trainer(tiny()), tokenizer, data, config, seed=5)
    kept = write_expert(base, tmp_path / "velm-5", fit, data, config, seed=5)
    assert kept == read_expert(tmp_path / "velm-5")
    assert kept.half is None
    assert kept.description["curve"] == [list(point) for point in fit.curve]
    loaded = LlamaForCausalLM.from_pretrained(kept.checkpoint, dtype="auto")
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.model.embed_tokens.weight, fit.weights["model.embed_tokens.weight"])


def test_rows_that_are_all_too_long_are_an_error() -> None:
    pairs = (Pair("long", "answer"),) * 20
    data = TaskData(name="velm", train=pairs, validation=pairs, test=pairs, data_hash=None)
    with pytest.raises(FamilyError, match="task velm must have 16 rows of at most 8 tokens, got 0"):
        train_expert(Trainer(tiny()), tokenizer, data, TrainConfig(steps=10, batch=16, max_tokens=8), seed=0)


def test_damaged_expert_is_refused(tmp_path: Path) -> None:
    (tmp_path / "expert.json").write_text(json.dumps({"schema": "other/1"}))
    with pytest.raises(FamilyError, match="must be of schema smollm2-expert/1, got other/1"):
        read_expert(tmp_path)


def test_recipe_scales_its_steps() -> None:
    assert recipe("sql", 0.5).steps == recipe("sql").steps // 2
    assert recipe("sql", 0.0).steps == 10
