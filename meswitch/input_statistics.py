"""What is summed over the inputs of linears while a model, or one layer of it, reads tokens."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["Statistic", "checked", "collecting", "linears_of", "second_moment", "square_sum"]

Statistic = Callable[[torch.Tensor], torch.Tensor]
"""Of some tokens `[T, K]` float64; statistics of several lots of tokens add up."""


def square_sum(tokens: torch.Tensor) -> torch.Tensor:
    """`Σ x_k²` `[K]`."""
    return tokens.square().sum(dim=0)


def second_moment(tokens: torch.Tensor) -> torch.Tensor:
    """`Σ x xᵀ` `[K, K]`."""
    return tokens.T @ tokens


def linears_of(module: nn.Module, prefix: str = "") -> dict[str, nn.Linear]:
    """The linears of a module by the name of their weight, which starts with `prefix`."""
    return {f"{prefix}{name}.weight": m for name, m in module.named_modules() if isinstance(m, nn.Linear)}


@contextmanager
def collecting(
    linears: Mapping[str, nn.Linear], statistic: Statistic, skip_tokens: int, *, device: torch.device | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """The running statistics, float64, of the linears, by their names, while hooks fill them.

    Args:
        statistic: of the tokens of one call.
        skip_tokens: at the start of each text that are not counted.
        device: of the sums; if absent, that of the weights.
    """
    sums = {
        name: statistic(torch.zeros(0, linear.in_features, dtype=torch.float64, device=device or linear.weight.device))
        for name, linear in linears.items()
    }

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach()
            # [1, T, K]; a linear fed with rows that are not the text's tokens has no first token to skip
            tokens = x[:, skip_tokens:] if x.ndim == 3 else x
            sums[name] += statistic(tokens.reshape(-1, x.shape[-1]).to(torch.float64))

        return add

    handles = [linear.register_forward_pre_hook(hook_for(name)) for name, linear in linears.items()]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def checked(name: str, total: torch.Tensor) -> torch.Tensor:
    """`total` as float32 on the CPU.

    Raises:
        ValueError: an input of the linear was not finite.
    """
    total = total.cpu().to(torch.float32)
    if not bool(total.isfinite().all()):
        place = tuple((~total.isfinite()).nonzero()[0].tolist())
        raise ValueError(
            f"the inputs of a linear must be finite, got {float(total[place])} in channel {place[-1]} of {name}"
        )
    return total
