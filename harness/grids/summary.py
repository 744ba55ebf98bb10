"""A grid over all tasks: KL and agreement of every cell with intervals, rebuilt from the raw records alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import RunFormatError

__all__ = ["CellMean", "cell_means", "markdown"]

NAMED = ("base", "delta_of", "linear", "embedding", "head")
RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class CellMean:
    """One cell over all tasks; every answer token counts alike.

    Attributes:
        names: of the cell, in the order of `NAMED`.
        kl: KL(expert ‖ cell) of an answer token in nats; low, high: its 95 % interval, items drawn again.
        agreement: share of tokens whose most probable successor is the expert's; right: whose is the answer's.
    """

    names: tuple[str, ...]
    tasks: int
    kl: float
    low: float
    high: float
    agreement: float
    right: float


def cell_means(raw: Path) -> list[CellMean]:
    """Every cell of a grid's raw records, in the order in which they were measured first.

    Raises:
        RunFormatError: the records cannot be read.
    """
    try:
        latest = {record["task"]: record for record in map(json.loads, raw.read_text().splitlines())}
        cells: dict[tuple[str, ...], list[Mapping[str, Sequence[float]]]] = {}
        for record in latest.values():
            for cell in record["cells"]:
                cells.setdefault(tuple(cell[name] for name in NAMED), []).append(cell)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFormatError(f"{raw}: not raw records of a grid: {error}") from error
    return [mean_of(names, found) for names, found in cells.items()]


def mean_of(names: tuple[str, ...], found: Sequence[Mapping[str, Sequence[float]]]) -> CellMean:
    """One cell's mean over tasks."""
    tokens, kl, agree, right = (
        np.concatenate([np.asarray(cell[name], dtype=np.float64) for cell in found])
        for name in ("tokens", "kl", "agree", "right")
    )
    low, high = interval(kl, tokens)
    return CellMean(
        names=names,
        tasks=len(found),
        kl=float(kl.sum() / tokens.sum()),
        low=low,
        high=high,
        agreement=float(agree.sum() / tokens.sum()),
        right=float(right.sum() / tokens.sum()),
    )


def interval(values: NDArray[np.float64], tokens: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % percentile interval of `Σ values / Σ tokens` over items drawn again, seed 0."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    ratios = values[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def markdown(means: Sequence[CellMean]) -> str:
    """The cells as a Markdown table; columns in which all cells are alike are left out."""
    shown = [i for i in range(len(NAMED)) if len({mean.names[i] for mean in means}) > 1]
    heads = [*(NAMED[i] for i in shown), "KL [95 % interval]", "agreement", "right"]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for mean in means:
        figures = [f"{mean.kl:.1e} [{mean.low:.1e}, {mean.high:.1e}]", f"{mean.agreement:.4f}", f"{mean.right:.4f}"]
        lines.append(f"| {' | '.join([*(mean.names[i] for i in shown), *figures])} |")
    return "\n".join(lines) + "\n"
