"""Which input channels of a delta are salient.

N is the output dimension, K the input dimension, `x_i` the input of channel `i` over the calibration tokens.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch

from meswitch.codecs.checks import checked_square_sum
from meswitch.codecs.quantise import row_chunks
from meswitch.errors import CodecOptionError, DeltaFormatError

__all__ = [
    "SELECT_RULES",
    "Quantise",
    "SelectRule",
    "channel_errors",
    "channel_scores",
    "check_channels",
    "select_channels",
    "split_channels",
]

SelectRule = Literal["error", "random", "magnitude", "wanda", "activation"]
"""How channels are scored; see `channel_scores`."""

SELECT_RULES: tuple[SelectRule, ...] = get_args(SelectRule)

Quantise = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Levels `[N, K]` and steps `[N]` of some rows of a delta `[N, K]`."""


def select_channels(
    delta: torch.Tensor,
    *,
    count: int,
    select: SelectRule,
    input_square_sum: torch.Tensor | None,
    quantise: Quantise,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` salient channels of `delta` `[N, K]` float32 and the others, as `split_channels` gives them.

    The arguments are those of `channel_scores`; `input_square_sum` may be of any floating-point type.

    Raises:
        ValueError: if `input_square_sum` is not `[K]`, finite and at least 0.
        CodecOptionError: if the rule needs calibration and there is none.
    """
    sums = None if input_square_sum is None else checked_square_sum(input_square_sum, delta.shape[1])
    scores = channel_scores(delta, select=select, input_square_sum=sums, quantise=quantise, seed=seed)
    return split_channels(scores, count)


def channel_scores(
    delta: torch.Tensor,
    *,
    select: SelectRule,
    input_square_sum: torch.Tensor | None,
    quantise: Quantise,
    seed: int,
) -> torch.Tensor:
    """A score for each input channel of `delta` `[N, K]` float32: `[K]` float64, larger is more salient.

    * `error`: `E_i = Σ x_i² · ‖D_i − D̂_i‖²`, what quantising the channel costs in the output (ME-Switch,
      arXiv 2406.09041). Without calibration every `Σ x_i²` is 1: the error of the weights alone.
    * `wanda`: `Σ x_i² · ‖D_i‖²`, after Wanda (Sun et al., arXiv 2306.11695): what dropping the channel costs.
    * `activation`: `Σ x_i²`. * `magnitude`: `‖D_i‖²`. * `random`: an order drawn from `seed`.

    Args:
        input_square_sum: `Σ x_i²` `[K]` float64, or `None` without calibration.
        quantise: what is done to the channels that are not salient; `select=error` applies it to all.

    Raises:
        CodecOptionError: if the rule needs calibration and there is none.
    """
    K = delta.shape[1]
    if select == "random":
        order = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
        return order.to(delta.device, torch.float64)
    if input_square_sum is None:
        if select in ("wanda", "activation"):
            raise CodecOptionError(f"select={select} needs calibration texts; give them, or choose select=error")
        input_square_sum = torch.ones(K, dtype=torch.float64, device=delta.device)
    weights = input_square_sum.to(delta.device)
    if select == "activation":
        return weights
    if select == "error":
        return weights * channel_errors(delta, quantise)
    return _channel_energies(delta) * (1.0 if select == "magnitude" else weights)


def channel_errors(delta: torch.Tensor, quantise: Quantise) -> torch.Tensor:
    """`‖D_i − D̂_i‖²` of each input channel when all of `delta` `[N, K]` is quantised: `[K]` float64."""
    errors = torch.zeros(delta.shape[1], dtype=torch.float64, device=delta.device)
    for rows in row_chunks(delta.shape[0], delta.shape[1], delta.device):
        levels, steps = quantise(delta[rows])
        errors += (delta[rows] - steps.unsqueeze(1) * levels).to(torch.float64).square_().sum(dim=0)
    return errors


def split_channels(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` channels of largest score, and the others: two ascending int64 index tensors.

    Of equal scores the lower channel counts as larger.
    """
    order = scores.argsort(descending=True, stable=True)
    return order[:count].sort().values, order[count:].sort().values


def check_channels(codec: str, salient: torch.Tensor, K: int) -> None:
    """Refuse stored salient channels that are not ascending and below K.

    Raises:
        DeltaFormatError: with the channels.
    """
    if salient.is_meta or salient.numel() == 0:
        return
    ascending = bool((salient.diff() > 0).all())
    if not ascending or int(salient[0]) < 0 or int(salient[-1]) >= K:
        raise DeltaFormatError(
            f"codec {codec}: channels must be ascending and from 0 to {K - 1}, got {salient.tolist()}"
        )


def _channel_energies(delta: torch.Tensor) -> torch.Tensor:
    energies = torch.zeros(delta.shape[1], dtype=torch.float64, device=delta.device)
    for rows in row_chunks(delta.shape[0], delta.shape[1], delta.device):
        energies += delta[rows].to(torch.float64).square_().sum(dim=0)
    return energies
