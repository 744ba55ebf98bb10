"""How a model's linears are used by calibration texts: `Σ x_k²` of their inputs, or all of `Σ x xᵀ`.

One pass with hooks is enough for every selection rule, because a channel's error in the output separates into
`Σ x_k² · ‖D_k − D̂_k‖²`. Texts run one at a time: without padding there is nothing to mask.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from meswitch.input_statistics import checked, collecting, linears_of, second_moment, square_sum

__all__ = ["collect_input_second_moments", "collect_input_square_sums"]


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
    with collecting(linears_of(model), square_sum, skip_tokens) as sums:
        _run(model, tokenizer, texts, max_tokens, skip_tokens, on_text)
    return {name: checked(name, total) for name, total in sums.items()}


def collect_input_second_moments(
    model: nn.Module,
    tokenizer: Callable[[str], Mapping[str, Any]],
    texts: Iterable[str],
    *,
    names: Collection[str] | None = None,
    max_tokens: int = 2048,
    skip_tokens: int = 0,
    on_text: Callable[[int], None] | None = None,
) -> Mapping[str, torch.Tensor]:
    """`Σ x xᵀ` over all tokens of `texts`, `[K, K]` float32 on the CPU, by parameter name.

    While the model runs, 8 · K² bytes are held for each linear on its device: for wide models collect a few at a time.
    Everything else is as in `collect_input_square_sums`, whose sums are the diagonals.

    Args:
        names: parameter names of the linears to collect for; `None` for all.

    Raises:
        ValueError: if no token was counted, an input of a linear is not finite, or a name is not that of a linear.
    """
    linears = linears_of(model)
    for name in names or ():
        if name not in linears:
            raise ValueError(f"names must be those of linears of the model, got {name!r}")
    wanted = linears if names is None else {name: linears[name] for name in linears if name in names}
    with collecting(wanted, second_moment, skip_tokens) as moments:
        _run(model, tokenizer, texts, max_tokens, skip_tokens, on_text)
    # one at a time, so that both precisions of all are never held together
    return {name: checked(name, moments.pop(name)) for name in list(moments)}


def _run(
    model: nn.Module,
    tokenizer: Callable[[str], Mapping[str, Any]],
    texts: Iterable[str],
    max_tokens: int,
    skip_tokens: int,
    on_text: Callable[[int], None] | None,
) -> None:
    """Run the model over the texts, while hooks look at it."""
    if max_tokens < 1 or skip_tokens < 0:
        raise ValueError(
            f"max_tokens must be at least 1 and skip_tokens at least 0, got {max_tokens} and {skip_tokens}"
        )
    device = next(model.parameters()).device
    counted_tokens = 0
    with _evaluating(model), torch.inference_mode():
        for done, text in enumerate(texts, start=1):
            ids = list(tokenizer(text)["input_ids"])[:max_tokens]
            if ids:
                model(input_ids=torch.tensor([ids], device=device))
            counted_tokens += max(0, len(ids) - skip_tokens)
            if on_text is not None:
                on_text(done)
    if counted_tokens == 0:
        raise ValueError(f"calibration needs texts of more than {skip_tokens} tokens, got none")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
