"""Gains of a described delta, trained so that the model's distribution comes near the expert's.

After the scale distillation of BitDelta (Liu et al., arXiv 2402.10193) and the learnt steps of ME-Switch (arXiv
2406.09041), whose recipes are not public in all parts. Ours: KL to the expert at the answer tokens of training items,
Adam, gains alone; one for each matrix or each output channel, by which its step and its salient values are multiplied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from harness.fidelity.subject import Subject, take_weights
from meswitch.families.smollm2.rows import IGNORED, Encoded, Rows, pad
from meswitch.families.smollm2.trainer import answer_logits

__all__ = ["DistilConfig", "distilled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """How gains are trained: `steps` of Adam over `batch` training items each, from gains of 1."""

    steps: int = 80
    batch: int = 64
    learning_rate: float = 0.02


def distilled(
    subject: Subject,
    described: Mapping[str, torch.Tensor],
    over: Literal["rows", "matrix"],
    config: DistilConfig,
) -> dict[str, torch.Tensor]:
    """`described` with its trained gains. The subject's model holds other weights afterwards."""
    model = subject.model
    take_weights(model, subject.expert)
    batches = [pad(part, model.lm_head.weight.device) for part in cut(subject.calibration, config.batch)]
    with torch.no_grad():
        targets = [F.log_softmax(_logits(model, rows), dim=-1) for rows in batches]
    gains = {name: torch.ones(len(d) if over == "rows" else 1, 1, device=d.device) for name, d in described.items()}
    optimizer = torch.optim.Adam(gains.values(), lr=config.learning_rate, fused=True)
    parameters = dict(model.named_parameters())
    for number in range(config.steps):
        with torch.no_grad():
            for name, gain in gains.items():
                parameters[name].copy_(subject.base[name]).addcmul_(described[name], gain)
        rows, target = batches[number % len(batches)], targets[number % len(batches)]
        loss = F.kl_div(F.log_softmax(_logits(model, rows), dim=-1), target, log_target=True, reduction="batchmean")
        gradients = torch.autograd.grad(loss, [parameters[name] for name in gains])
        for (name, gain), gradient in zip(gains.items(), gradients, strict=True):
            along = gradient * described[name]
            gain.grad = along.sum(dim=1, keepdim=True) if over == "rows" else along.sum().view(1, 1)
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - number / config.steps)
        optimizer.step()
    return {name: described[name] * gain for name, gain in gains.items()}


def cut(items: Sequence[Encoded], size: int) -> list[Sequence[Encoded]]:
    """Consecutive parts of `size` items; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _logits(model: Any, rows: Rows) -> torch.Tensor:
    """Logits at the answer tokens, `[n, V]` float32."""
    return answer_logits(model, rows)[rows.labels != IGNORED]
