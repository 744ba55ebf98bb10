"""The levels that a code of `bits` bits can name, in units of the step.

At 1, 2 and 4 bits the levels are the half-integers symmetric around 0, so there is no level 0: `±½`, `±½ ±1½`, …
At 8 bits they are the integers -127 … 127; the code of -128 is never written, so that a negated delta has negated
levels.
"""

import torch

__all__ = ["codes_of", "largest_level", "levels_of", "nearest_levels", "round_to_levels_"]


def largest_level(bits: int) -> float:
    """The largest level that is written, the smallest is its negative."""
    return 127.0 if bits == 8 else (2**bits - 1) / 2


def nearest_levels(scaled: torch.Tensor, bits: int) -> torch.Tensor:
    """The level nearest to each element of `scaled` (delta over step), float32. 0 goes to `+½` where there is no 0."""
    return round_to_levels_(scaled.clone(), bits)


def round_to_levels_(scaled: torch.Tensor, bits: int) -> torch.Tensor:
    """`scaled` itself, overwritten with `nearest_levels` of it."""
    levels = scaled.round_() if bits == 8 else scaled.floor_().add_(0.5)
    return levels.clamp_(-largest_level(bits), largest_level(bits))


def codes_of(levels: torch.Tensor, bits: int) -> torch.Tensor:
    """The uint8 codes that name `levels`."""
    return (levels + _offset(bits)).to(torch.uint8)


def levels_of(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """The float32 levels that uint8 `codes` name: `code - (2^bits - 1) / 2`, and `code - 128` at 8 bits."""
    return codes.to(torch.float32).sub_(_offset(bits))


def _offset(bits: int) -> float:
    return 128.0 if bits == 8 else (2**bits - 1) / 2
