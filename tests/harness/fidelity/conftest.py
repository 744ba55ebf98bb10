"""A family of tiny experts: two layers, random weights, made on the spot."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.fidelity.subject import Subject, take_weights
from meswitch.families.smollm2.rows import Encoded

VOCABULARY = 24


class TinyFamily:
    """Subjects whose experts differ from the base by random deltas; counts how often each was asked for."""

    def __init__(self, *, half: bool) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.2,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
        self.model: Any = LlamaForCausalLM(config).float().eval()
        self.base = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.half = half
        self.asked: list[tuple[str, int]] = []

    def subject(self, task: str, seed: int) -> Subject:
        self.asked.append((task, seed))
        generator = torch.Generator().manual_seed(100 + seed)
        deltas = {name: 0.05 * torch.randn(t.shape, generator=generator) for name, t in self.base.items()}
        expert = {name: t + deltas[name] for name, t in self.base.items()}
        half = {name: t + 0.5 * deltas[name] for name, t in self.base.items()}
        rows = torch.randint(VOCABULARY, (24, 6), generator=generator).tolist()
        items = [Encoded(tuple(row), 2) for row in rows]
        take_weights(self.model, expert)
        return Subject(
            family="tiny",
            task=task,
            seed=seed,
            model=self.model,
            base=self.base,
            expert=expert,
            half=half if self.half else None,
            expert_hash=f"hash-{seed}",
            test=items[:12],
            validation=items[12:16],
            calibration=items[16:],
        )


@pytest.fixture(scope="session")
def tiny_family() -> Callable[..., TinyFamily]:
    return lambda *, half=False: TinyFamily(half=half)
