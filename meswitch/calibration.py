"""How strongly each input channel of a model's linears is used: `Σ x_k²` over the tokens of calibration texts.

One pass with hooks is enough for every selection rule, because a channel's error in the output separates into
`Σ x_k² · ‖D_k − D̂_k‖²`. Texts run one at a time: without padding there is nothing to mask.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["collect_input_square_sums"]


def collect_input_square_sums(
    model: nn.Module,
    tokenizer: Callable[[str], Mapping[str, Any]],
    texts: Iterable[str],
    *,
    max_tokens: int = 2048,
    skip_tokens: int = 0,
    on_text: Callable[[int], None] | None = None,
) -> Mapping[str, torch.Tensor]:
    """`Σ x_k²` over all tokens of `texts`, `[K]` float32 on the CPU, by parameter name (`….q_proj.weight`).

    A linear that no token reached, such as an idle expert of a mixture, has sums of 0. The model's weights and its
    training mode are as before afterwards.

    Args:
        model: called with `input_ids` `[1, T]`, on the device of its parameters.
        tokenizer: gives `input_ids` of one text.
        max_tokens: of one text; later ones are cut off.
        skip_tokens: at the start of each text that are computed but not counted: the first token of many models
            draws activations hundreds of times larger than all others.
        on_text: called after each text with the number of texts done.

    Raises:
        ValueError: if no token was counted, or an input of a linear is not finite.
    """
    if max_tokens < 1 or skip_tokens < 0:
        raise ValueError(
            f"max_tokens must be at least 1 and skip_tokens at least 0, got {max_tokens} and {skip_tokens}"
        )
    device = next(model.parameters()).device
    counted_tokens = 0
    with _collecting(model, skip_tokens) as sums, _evaluating(model), torch.inference_mode():
        for done, text in enumerate(texts, start=1):
            ids = list(tokenizer(text)["input_ids"])[:max_tokens]
            if ids:
                model(input_ids=torch.tensor([ids], device=device))
            counted_tokens += max(0, len(ids) - skip_tokens)
            if on_text is not None:
                on_text(done)
    if counted_tokens == 0:
        raise ValueError(f"calibration needs texts of more than {skip_tokens} tokens, got none")
    return {name: _checked(name, total) for name, total in sums.items()}


@contextmanager
def _collecting(model: nn.Module, skip_tokens: int) -> Iterator[dict[str, torch.Tensor]]:
    """The running sums, float64, of every `nn.Linear`, while hooks fill them."""
    linears = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    sums = {
        name: torch.zeros(linear.in_features, dtype=torch.float64, device=linear.weight.device)
        for name, linear in linears.items()
    }

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach()
            # [1, T, K]; a linear fed with rows that are not the text's tokens has no first token to skip
            tokens = x[:, skip_tokens:] if x.ndim == 3 else x
            sums[name] += tokens.reshape(-1, x.shape[-1]).to(torch.float64).square_().sum(dim=0)

        return add

    handles = [linear.register_forward_pre_hook(hook_for(name)) for name, linear in linears.items()]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _checked(name: str, total: torch.Tensor) -> torch.Tensor:
    total = total.cpu().to(torch.float32)
    if not bool(total.isfinite().all()):
        k = int((~total.isfinite()).nonzero()[0])
        raise ValueError(f"the inputs of a linear must be finite, got {float(total[k])} in channel {k} of {name}")
    return total
