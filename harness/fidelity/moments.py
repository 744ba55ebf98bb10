"""What an expert's linears see of its calibration items: `Σ x xᵀ` and its diagonals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.fidelity.subject import Subject
from meswitch.families.pocket.forward import hidden_of
from meswitch.families.smollm2.rows import pad
from meswitch.input_statistics import linears_of

__all__ = ["Moments", "collect_moments"]

ITEMS_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """`Σ x xᵀ` of the linears' inputs `[K, K]` float32, by parameter name, and its diagonals `[K]`.

    Linears with one input share one tensor.
    """

    second: Mapping[str, torch.Tensor]
    square_sums: Mapping[str, torch.Tensor]


@torch.no_grad()
def collect_moments(subject: Subject) -> Moments:
    """The moments of the expert's inputs over its calibration items, their first token left out, on its device.

    The first token of many models draws activations hundreds of times larger than all others. `subject.model` must hold
    the expert's weights.
    """
    model: Any = subject.model
    linears = linears_of(model)
    sums = _Sums()
    handles = [linears[name].register_forward_pre_hook(sums.hook(name)) for name in subject.linears]
    try:
        for start in range(0, len(subject.calibration), ITEMS_AT_ONCE):
            items = subject.calibration[start : start + ITEMS_AT_ONCE]
            rows = pad(items, model.lm_head.weight.device)
            lengths = torch.tensor([len(item.ids) for item in items], device=rows.ids.device)
            places = torch.arange(rows.ids.shape[1], device=rows.ids.device)
            sums.counted = (places > 0) & (places < lengths.unsqueeze(1))
            hidden_of(model, rows.ids)
    finally:
        for handle in handles:
            handle.remove()
    found = {name: total.to(torch.float32) for name, total in sums.totals.items()}
    second = {name: found[sums.owner[name]] for name in subject.linears}
    return Moments(second=second, square_sums={name: moment.diagonal().clone() for name, moment in second.items()})


class _Sums:
    """`Σ x xᵀ` float64 of every distinct input, while hooks fill it.

    Attributes:
        counted: `[rows, tokens]` bool, which tokens of the present batch count.
        owner: of each linear the first one that has its input.
    """

    def __init__(self) -> None:
        self.totals: dict[str, torch.Tensor] = {}
        self.owner: dict[str, str] = {}
        self.counted = torch.empty(0, dtype=torch.bool)
        self.last: tuple[torch.Tensor | None, str] = (None, "")

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0]
            if self.last[0] is x:
                self.owner[name] = self.last[1]
                return
            self.last, self.owner[name] = (x, name), name
            tokens = x[self.counted].to(torch.float64)
            moment = tokens.T @ tokens
            self.totals[name] = self.totals[name] + moment if name in self.totals else moment

        return add
