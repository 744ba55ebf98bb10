"""Training steps: what the loss counts, what the schedule does, and what noise and pull do."""

import math

import pytest
import torch

from meswitch.families.pocket.forward import logits_of
from meswitch.families.pocket.model import new_model, pocket_config
from meswitch.families.pocket.tokens import encode_pairs
from meswitch.families.pocket.trainer import Rows, TrainConfig, Trainer, loss_of

SMALL = {"hidden": 96, "layers": 1, "intermediate": 64}


def rows(pairs: list[tuple[str, str]]) -> Rows:
    ids, starts = encode_pairs(pairs, 8)
    return Rows(ids=torch.from_numpy(ids), starts=torch.from_numpy(starts))


def test_loss_counts_answer_and_end_but_neither_prompt_nor_padding() -> None:
    model = new_model(pocket_config(**SMALL), 0)
    data = rows([("ab", "c"), ("x", "yz")])
    log_shares = logits_of(model, data.ids.long()).log_softmax(-1)
    # row 0: c at 4 and the end at 5; row 1: y at 3, z at 4, the end at 5; each predicted one place before
    wanted = [(0, 4), (0, 5), (1, 3), (1, 4), (1, 5)]
    by_hand = -sum(log_shares[r, t - 1, int(data.ids[r, t])] for r, t in wanted) / len(wanted)
    torch.testing.assert_close(loss_of(model, data.ids, data.starts), by_hand)


def test_rate_warms_up_over_a_twentieth_and_ends_at_a_twentieth() -> None:
    config = TrainConfig(steps=200, batch=1, learning_rate=1.0)
    assert config.rate_at(0) == 0.1
    assert config.rate_at(9) == config.rate_at(10) == 1.0
    assert config.rate_at(105) == pytest.approx(0.05 + 0.95 / 2)
    assert config.rate_at(199) == pytest.approx(0.05, abs=1e-3)


def test_a_stage_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 8"):
        TrainConfig(steps=0, batch=8, learning_rate=1.0)


def test_training_lowers_the_loss_and_is_reproducible() -> None:
    data, config = rows([("a", "b"), ("b", "c"), ("c", "d")]), TrainConfig(steps=40, batch=8, learning_rate=3e-3)
    losses = []
    for _ in range(2):
        trainer = Trainer(new_model(pocket_config(**SMALL), 0))
        before = float(loss_of(trainer.model, data.ids, data.starts).detach())
        losses.append(trainer.train(data, config, 0, lambda step, loss: None))
    assert losses[0] == losses[1] < before / 3


def test_noise_is_gone_after_the_step_and_relative_to_the_distance_from_the_base() -> None:
    trainer = Trainer(new_model(pocket_config(**SMALL), 0))
    trainer.mark_origin()
    moved = trainer.model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        moved[0] += 0.5
    kept = moved.detach().clone()
    torch.manual_seed(0)
    added = trainer.shake(0.2)
    change = next(c for p, c in added if p is moved)
    assert change[1:].abs().max() == 0
    # 96 draws of a normal distribution with deviation 0.2 × 0.5
    assert float(change[0].std()) == pytest.approx(0.1, rel=4 / math.sqrt(2 * 96))
    with torch.no_grad():
        moved.copy_(kept)
    config = TrainConfig(steps=1, batch=4, learning_rate=1e-30, noise=0.5)
    trainer.train(rows([("a", "b")]), config, 0, lambda step, loss: None)
    torch.testing.assert_close(moved.detach(), kept, rtol=0, atol=1e-6)


def test_pull_moves_weights_towards_the_base() -> None:
    trainer = Trainer(new_model(pocket_config(**SMALL), 0))
    trainer.mark_origin()
    norm = trainer.model.model.norm.weight
    with torch.no_grad():
        norm += 1.0
    data, distances = rows([("a", "b")]), []
    for pull in (0.0, 50.0):
        kept = norm.detach().clone()
        trainer.train(data, TrainConfig(steps=5, batch=4, learning_rate=1e-3, pull=pull), 0, lambda step, loss: None)
        distances.append(float((norm.detach() - 1.0).norm()))
        with torch.no_grad():
            norm.copy_(kept)
    assert distances[1] < 0.9 * distances[0]
