"""One expert to be compressed and scored: its weights, its base's, and the items of its own domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meswitch.families.smollm2.rows import Encoded

__all__ = ["Subject", "linear_names", "take_delta", "take_weights"]

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An expert on a device. All tensors are float32.

    Attributes:
        model: whose parameters are overwritten by whatever is scored; many subjects may share one.
        base, expert: weights by parameter name.
        half: the expert after half of its training, if it is known.
        expert_hash: of the expert's weights, and of the half-trained ones'.
        test, validation: items, in a fixed order.
        calibration: token ids of training items.
    """

    family: str
    task: str
    seed: int
    model: Any
    base: Weights
    expert: Weights
    half: Weights | None
    expert_hash: str
    test: Sequence[Encoded]
    validation: Sequence[Encoded]
    calibration: Sequence[Encoded]

    @property
    def linears(self) -> tuple[str, ...]:
        """The parameters that codecs act on."""
        return linear_names(self.model)

    def trained(self, half: bool) -> Weights:
        """The expert's weights, or those after half of its training."""
        if not half:
            return self.expert
        if self.half is None:
            raise ValueError(f"expert {self.task}-{self.seed} was not kept at half of its training")
        return self.half


def linear_names(model: Any) -> tuple[str, ...]:
    """The decoder's linear weights: all but the head."""
    linears = (f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return tuple(name for name in linears if name != "lm_head.weight")


@torch.no_grad()
def take_weights(model: Any, weights: Weights) -> None:
    """Overwrite the parameters of `model` that `weights` names."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


@torch.no_grad()
def take_delta(model: Any, base: Weights, described: Weights, gain: float = 1.0) -> None:
    """Put base + gain · D̂ in place of the parameters that `described` names."""
    parameters = dict(model.named_parameters())
    places, kept = [parameters[name] for name in described], [base[name] for name in described]
    # one launch for many matrices
    torch._foreach_copy_(places, kept)
    torch._foreach_add_(places, list(described.values()), alpha=gain)
