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


def choose_codes(delta: torch.Tensor, *, group: int, keep: int, free: torch.Tensor) -> torch.Tensor:
    """Codes `[keep, N, ⌈K / group⌉]` uint8 of `delta` `[N, K]` float32.

    One code names the largest magnitude of its group. Two codes name the two largest, or twice the largest, or two
    opposite signs in one place, which is 0: whatever leaves the least squared error at the least-squares step. Of equal
    magnitudes the lower place counts as larger.

    A code cannot name nothing. Where a group has nothing to keep it names a free place, or else, with changing sign
    from group to group, an element that is 0.

    Args:
        free: `[K]` bool, the channels where any level does no harm; they are kept only where nothing else can be.
            Places beyond K are free too.
    """
    rank, negative = _ranked(scaled_rows(delta)[1], group, free)
    codes, ranks = [], []
    for _ in range(keep):
        best, place = _largest(rank)
        codes.append(place + group * negative.gather(-1, place.unsqueeze(-1)).squeeze(-1))
        ranks.append(best)
        rank = rank.scatter(-1, place.unsqueeze(-1), _TAKEN)
    if keep == 2:
        codes = _paired(codes, ranks, group)
    return torch.stack(codes).to(torch.uint8)


def group_levels(codes: torch.Tensor, *, group: int, K: int) -> torch.Tensor:
    """The levels `[N, K]` float32 of codes `[keep, N, ⌈K / group⌉]`."""
    levels = expand_groups(codes[0], group, K)
    for plane in codes[1:]:
        levels += expand_groups(plane, group, K)
    return levels


def _ranked(unit: torch.Tensor, group: int, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By group, `[N, groups, G]`: magnitudes, below 0 where nothing is to be kept; and 1 for a negative sign.

    Args:
        unit: rows scaled to [-1, 1].
    """
    N, K = unit.shape
    magnitude = unit.abs()
    rank = torch.where(magnitude > 0, magnitude, _ZERO).masked_fill(free, _FREE)
    rank = torch.nn.functional.pad(rank, (0, -K % group), value=_FREE).view(N, -1, group)
    signed = torch.nn.functional.pad(unit, (0, -K % group)).view(N, -1, group)
    odd = (torch.arange(rank.shape[1], device=unit.device) % 2 == 1).view(1, -1, 1)
    # all plus would move every output along the mean of its inputs
    return rank, torch.where(rank > 0, signed < 0, odd).to(torch.int64)


def _largest(rank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest rank of each group `[N, groups]` and its place: the first, on every device."""
    best = rank.amax(dim=-1)
    places = torch.arange(rank.shape[-1], device=rank.device)
    return best, torch.where(rank == best.unsqueeze(-1), places, rank.shape[-1]).amin(dim=-1)


def _paired(codes: list[torch.Tensor], ranks: list[torch.Tensor], group: int) -> list[torch.Tensor]:
    """Two codes per group: both places, or the first place twice, or the first place with both signs."""
    first, second = (rank.clamp(min=0.0) for rank in ranks)
    silent = [rank == _FREE for rank in ranks]
    kept = (first > 0).sum(dim=1, keepdim=True)
    step = first.sum(dim=1, keepdim=True) / kept.clamp(min=1)
    for _ in range(_ITERATIONS):
        twice, none = _pattern(first, second, silent, step)
        units = torch.where(twice, 4.0, torch.where(none, 0.0, 2.0 - silent[0].float() - silent[1].float()))
        along = torch.where(twice, 2 * first, torch.where(none, 0.0, first + second)).sum(dim=1, keepdim=True)
        energy = units.sum(dim=1, keepdim=True)
        step = torch.where(energy > 0, along / energy.clamp(min=1.0), step)
    twice, none = _pattern(first, second, silent, step)
    opposite = codes[0] ^ group
    return [codes[0], torch.where(twice, codes[0], torch.where(none, opposite, codes[1]))]


def _pattern(
    first: torch.Tensor, second: torch.Tensor, silent: list[torch.Tensor], step: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the first place taken twice, and where nothing, explains more of the group than both places."""
    # the squared error that a unit at magnitude a saves is s · (2a - s), two units there 4s · (a - s); s is left out
    both = sum(torch.where(free, 0.0, 2 * a - step) for a, free in zip((first, second), silent, strict=True))
    double = torch.where(silent[0], 0.0, 4 * (first - step))
    twice = (double > both) & (double > 0)
    return twice, (both < 0) & ~twice
