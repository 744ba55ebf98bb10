"""Sweeps: one measurement for each cell of experts × arms × policy × popularity × load × memory budget."""

from harness.sweep.cells import Cell, Grid
from harness.sweep.results import CellRecord, SweepDirectory
from harness.sweep.rows import SweepRow, sweep_rows

__all__ = ["Cell", "CellRecord", "Grid", "SweepDirectory", "SweepRow", "sweep_rows"]
