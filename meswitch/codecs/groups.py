"""Which elements of a group of neighbours are kept, as positions and signs.

N is the output dimension, K the input dimension, G the size of a group. Codes are those of
`meswitch_kernels.sparse_packing`; the levels of a group with several codes are the sum of theirs.
"""

import torch

from meswitch.codecs.quantise import scaled_rows
from meswitch_kernels.sparse_packing import expand_groups

__all__ = ["KEEPS", "choose_codes", "group_levels"]

KEEPS = (1, 2)
"""How many codes a group may have."""

_ITERATIONS = 8
# ranks below every magnitude: a free place is better than a place where ±1 would be an error
_FREE, _ZERO, _TAKEN = -1.0, -2.0, -3.0


def choose_codes(
    delta: torch.Tensor, *, group: int, keep: int, free: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Codes `[keep, N, ⌈K / group⌉]` uint8 of `delta` `[N, K]` float32.

    One code names the largest magnitude of its group. Two codes name the two largest, or twice the largest, or two
    opposite signs in one place, which is 0: whatever leaves the least squared error at the least-squares step. Of equal
    magnitudes the lower place counts as larger.

    A code cannot name nothing. Where a group has nothing to keep it names a free place, or else, with changing sign
    from group to group, an element that is 0.

    Args:
        free: `[K]` bool, the channels where any level does no harm; they are kept only where nothing else can be.
            Places beyond K are free too.
        weights: `[K]` float32, at least 0, of the squared errors of each channel; the largest is then that of the
            magnitude times the root of the weight. `None` weighs all alike.
    """
    unit = scaled_rows(delta)[1]
    weights = torch.ones_like(unit[0]) if weights is None else weights / weights.amax().clamp(min=1e-30)
    rank, negative = _ranked(unit, group, free, weights.sqrt())
    magnitude = _grouped(unit.abs(), group)
    weight = _grouped(weights.masked_fill(free, 0.0).unsqueeze(0), group).expand_as(magnitude)
    codes, magnitudes, costs = [], [], []
    for _ in range(keep):
        place = _largest(rank).unsqueeze(-1)
        codes.append((place + group * negative.gather(-1, place)).squeeze(-1))
        magnitudes.append(magnitude.gather(-1, place).squeeze(-1))
        costs.append(weight.gather(-1, place).squeeze(-1))
        rank = rank.scatter(-1, place, _TAKEN)
    if keep == 2:
        codes = _paired(codes, torch.stack(magnitudes), torch.stack(costs), group)
    return torch.stack(codes).to(torch.uint8)


def group_levels(codes: torch.Tensor, *, group: int, K: int) -> torch.Tensor:
    """The levels `[N, K]` float32 of codes `[keep, N, ⌈K / group⌉]`."""
    levels = expand_groups(codes[0], group, K)
    for plane in codes[1:]:
        levels += expand_groups(plane, group, K)
    return levels


def _grouped(rows: torch.Tensor, group: int, fill: float = 0.0) -> torch.Tensor:
    """`rows` `[N, K]` by group, `[N, groups, G]`, with `fill` beyond K."""
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % group), value=fill)
    return padded.reshape(rows.shape[0], -1, group)


def _ranked(
    unit: torch.Tensor, group: int, free: torch.Tensor, roots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """By group, `[N, groups, G]`: weighted magnitudes, below 0 where nothing is to be kept; and 1 for a negative sign.

    Args:
        unit: rows scaled to [-1, 1].
        roots: `[K]`, of the weights.
    """
    rank = torch.where(unit != 0, unit.abs() * roots, _ZERO).masked_fill(free, _FREE)
    rank = _grouped(rank, group, _FREE)
    odd = (torch.arange(rank.shape[1], device=unit.device) % 2 == 1).view(1, -1, 1)
    # all plus would move every output along the mean of its inputs
    return rank, torch.where(rank >= 0, _grouped(unit, group) < 0, odd).to(torch.int64)


def _largest(rank: torch.Tensor) -> torch.Tensor:
    """The place `[N, groups]` of the largest rank of each group: the first, on every device."""
    places = torch.arange(rank.shape[-1], device=rank.device)
    best = rank.amax(dim=-1, keepdim=True)
    return torch.where(rank == best, places, rank.shape[-1]).amin(dim=-1)


def _paired(
    codes: list[torch.Tensor], magnitudes: torch.Tensor, weights: torch.Tensor, group: int
) -> list[torch.Tensor]:
    """Two codes per group: both places, or the first place twice, or the first place with both signs.

    Args:
        magnitudes, weights: of the two places, `[2, N, groups]`.
    """
    first = weights[0] * (magnitudes[0] > 0)
    step = _ratio((first * magnitudes[0]).sum(dim=1), first.sum(dim=1))
    for _ in range(_ITERATIONS):
        twice, none = _pattern(magnitudes, weights, step)
        units = torch.where(twice, 4 * weights[0], weights.sum(dim=0)).masked_fill(none, 0.0)
        gains = weights * magnitudes
        along = torch.where(twice, 2 * gains[0], gains.sum(dim=0)).masked_fill(none, 0.0)
        step = _ratio(along.sum(dim=1), units.sum(dim=1))
    twice, none = _pattern(magnitudes, weights, step)
    opposite = codes[0] ^ group
    return [codes[0], torch.where(twice, codes[0], torch.where(none, opposite, codes[1]))]


def _ratio(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    return torch.where(below > 0, above / below, 0.0)


def _pattern(magnitudes: torch.Tensor, weights: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the first place taken twice, and where nothing, explains more of the group than both places."""
    step = step.unsqueeze(1)
    # the squared error that a unit at magnitude a saves is s · (2a - s), two units there 4s · (a - s); s is left out
    both = (weights * (2 * magnitudes - step)).sum(dim=0)
    double = 4 * weights[0] * (magnitudes[0] - step)
    twice = (double > both) & (double > 0)
    return twice, (both < 0) & ~twice
