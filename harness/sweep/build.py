"""A sweep's raw records as tables: `sweep.json` and `fit.json`, lists of flat rows. Nothing else goes in."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.results import write_atomic
from harness.sweep.fit import FitRow, fit_rows
from harness.sweep.results import SweepDirectory
from harness.sweep.rows import SweepRow, sweep_rows

__all__ = ["SweepTables", "rebuild_sweep", "write_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTables:
    """What a sweep comes to."""

    rows: tuple[SweepRow, ...]
    fits: tuple[FitRow, ...]


def rebuild_sweep(directory: SweepDirectory) -> SweepTables:
    """The tables, after writing them. The same records give the same bytes.

    Raises:
        RunFormatError: a file is missing or damaged.
    """
    rows = tuple(sweep_rows(directory))
    fits = tuple(fit_rows(rows))
    write_rows(directory.rows, rows)
    write_rows(directory.fit, fits)
    return SweepTables(rows=rows, fits=fits)


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write dataclasses as a list of flat JSON objects, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n").encode())
