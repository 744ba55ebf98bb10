"""One step per output channel, and the codes that go with it.

N is the output dimension, K the input dimension. Everything here works on a few rows at a time, so that the
temporaries of a large matrix stay small; no row's result depends on another row.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args

import torch

from meswitch.codecs.levels import largest_level, round_to_levels_

__all__ = [
    "FIT_RULES",
    "STEP_RULES",
    "FitRule",
    "StepRule",
    "fitted_steps",
    "quantise_rows",
    "row_chunks",
    "scaled_rows",
]

StepRule = Literal["absmax", "mse", "unbiased"]
"""How a step is found; see `quantise_rows`."""

STEP_RULES: tuple[StepRule, ...] = get_args(StepRule)

FitRule = Literal["mse", "unbiased"]
"""How a step is found for levels that are known; see `fitted_steps`."""

FIT_RULES: tuple[FitRule, ...] = get_args(FitRule)

_CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 23}
_GRID_POINTS = 22
_ITERATIONS = 8
# step over standard deviation with the least squared error for a Gaussian source, by numerical minimisation
_GAUSSIAN_STEP = {2: 0.9957, 4: 0.3352, 8: 0.0309}


def row_chunks(N: int, K: int, device: torch.device | None = None) -> Iterator[slice]:
    """Slices that cover N rows of K elements, in pieces that suit `device`, the CPU if absent.

    About a million elements stay in the caches of a core; a GPU would wait for so short a piece's launches.
    """
    rows = max(1, _CHUNK_ELEMENTS.get("cpu" if device is None else device.type, _CHUNK_ELEMENTS["cpu"]) // K)
    for start in range(0, N, rows):
        yield slice(start, min(start + rows, N))


def quantise_rows(delta: torch.Tensor, *, bits: int, rule: StepRule) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels `[N, K]` and steps `[N]`, both float32, of `delta` `[N, K]` float32, so that `delta ≈ step · level`.

    * `absmax`: the largest level reaches the largest magnitude of the row.
    * `mse`: the least squared error: the best step of a grid, then nearest levels and the step that fits them best in
      turn (Lloyd's iteration).
    * `unbiased`: the levels of `mse`, and the step `‖D‖² / ⟨D, level⟩`, with which `⟨D, D̂⟩ = ‖D‖²`: the row is not
      shrunk towards the base.

    A row of zeros has step 0.

    Raises:
        ValueError: if a step is too large for float32.
    """
    peak, unit = scaled_rows(delta)
    if rule == "absmax":
        step = torch.full_like(peak, 1.0 / largest_level(bits))
        levels = round_to_levels_(unit / step.unsqueeze(1), bits)
    else:
        levels = round_to_levels_(unit / _least_squares(unit, bits).unsqueeze(1), bits)
        step = _FITS[rule](unit, levels)
    return levels, _unscaled(step, peak)


def fitted_steps(delta: torch.Tensor, levels: torch.Tensor, *, rule: FitRule) -> torch.Tensor:
    """The steps `[N]` float32 for the given levels `[N, K]` of `delta` `[N, K]`.

    * `mse`: the least squared error, `⟨D, level⟩ / ‖level‖²`.
    * `unbiased`: `‖D‖² / ⟨D, level⟩`, with which `⟨D, D̂⟩ = ‖D‖²` in each row.

    0 where `⟨D, level⟩` is not positive.

    Raises:
        ValueError: if a step is too large for float32.
    """
    peak, unit = scaled_rows(delta)
    return _unscaled(_FITS[rule](unit, levels), peak)


def scaled_rows(delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest magnitude `[N]` of each row of `delta` `[N, K]`, and the rows scaled to [-1, 1], in row-major order.

    The squares of very small deltas would underflow in float32.
    """
    # in one memory order, so that equal deltas with other strides give equal bytes
    delta = delta.contiguous()
    peak = delta.abs().amax(dim=1)
    return peak, delta / torch.where(peak > 0, peak, 1.0).unsqueeze(1)


def _unscaled(step: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    step = torch.where(peak > 0, step * peak, 0.0)
    if not step.is_meta and not bool(step.isfinite().all()):
        raise ValueError(f"a step must fit float32, got a delta of magnitude {float(peak.max())}")
    return step


def _projection(unit: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    along, energy = torch.linalg.vecdot(unit, levels), torch.linalg.vecdot(levels, levels)
    return torch.where((along > 0) & (energy > 0), along / energy, 0.0)


def _unbiased(unit: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    along = torch.linalg.vecdot(unit, levels)
    return torch.where(along > 0, torch.linalg.vecdot(unit, unit) / along, 0.0)


_FITS: Mapping[FitRule, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse": _projection,
    "unbiased": _unbiased,
}


def _least_squares(unit: torch.Tensor, bits: int) -> torch.Tensor:
    """The step `[N]` whose nearest levels leave the least squared error, for rows `[N, K]` scaled to [-1, 1]."""
    step = torch.ones_like(unit[:, 0])
    if bits == 1:
        # the sign is the nearest level at any step
        return step
    best_gain = torch.full_like(step, -1.0)
    # written again by every fit: fresh memory would cost more than the arithmetic
    room = (torch.empty_like(unit), torch.empty_like(unit))
    for start in _starts(unit, bits):
        refitted, gain = _refit(unit, start, bits, room)
        step = torch.where(gain > best_gain, refitted, step)
        best_gain = torch.maximum(gain, best_gain)
    for _ in range(_ITERATIONS):
        step, _ = _refit(unit, step, bits, room)
    return step


def _starts(unit: torch.Tensor, bits: int) -> Iterator[torch.Tensor]:
    """Positive steps `[N]`: a grid below that of `absmax`, and two for rows with outliers far above the rest."""
    widest = torch.full_like(unit[:, 0], 1.0 / largest_level(bits))
    for fraction in torch.linspace(0.3, 1.0, _GRID_POINTS).tolist():
        yield widest * fraction
    # the standard deviation by two estimates: outliers weigh less in the mean magnitude
    for deviation in (unit.square().mean(dim=1).sqrt(), unit.abs().mean(dim=1) * math.sqrt(math.pi / 2)):
        yield torch.where(deviation > 0, deviation * _GAUSSIAN_STEP[bits], 1.0)


def _refit(
    unit: torch.Tensor, step: torch.Tensor, bits: int, room: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best step for the levels nearest under `step`, and the energy of the row that it explains, both `[N]`.

    Args:
        room: two matrices like `unit`, which are overwritten.
    """
    levels, products = room
    round_to_levels_(torch.div(unit, step.unsqueeze(1), out=levels), bits)
    along = torch.mul(unit, levels, out=products).sum(dim=1)
    energy = torch.mul(levels, levels, out=products).sum(dim=1)
    fits = (along > 0) & (energy > 0)
    return torch.where(fits, along / energy, step), torch.where(fits, along * along / energy, 0.0)
