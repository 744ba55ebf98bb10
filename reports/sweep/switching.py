"""The part of a sweep's page that is about switches alone, from the directory of `harness switching`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.summary import Estimate
from harness.switching.build import SwitchingTables, switching_tables
from harness.switching.results import SwitchingDirectory, SwitchingManifest
from harness.switching.rows import InterferenceRow, SwitchRow
from harness.units import format_count, format_factor, format_interval, format_number
from reports.rows import Cell

__all__ = [
    "BESIDE_HEADINGS",
    "CASES",
    "SWITCH_HEADINGS",
    "SwitchingSource",
    "beside_cells",
    "find_switching",
    "switch_cells",
    "switching_lines",
]

BESIDE = "switching"
"""Name of a directory in a sweep's or beside it that is taken without being named."""

CASES: Mapping[str, str] = {
    "resident": "resident",
    "host": "in host memory",
    "plane": "in host memory, first bit plane serves",
    "disk": "on disk",
    "disk-cold": "on disk, past the page cache",
}

FIGURES: Mapping[str, str] = {
    "gap_p99": "between tokens, p99, switches beside",
    "tpot_p50": "per token, median, switches beside",
    "ttft_p50": "first token, median, switches beside",
    "resident_ttft_p50": "first token, median, switch before",
    "resident_tpot_p50": "per token, median, switch before",
}

SWITCH_HEADINGS = (
    "arm",
    "expert is",
    "n",
    "TTFT, ms",
    "more than resident, ms",
    "copy, ms",
    "least, ms",
    "copy / least",
    "whole model's copy / this",
    "its penalty / this",
    "shared",
)
BESIDE_HEADINGS = ("arm", "missing experts are", "of resident experts", "without, ms", "with, ms", "ratio", "switches")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchingSource:
    """One measurement of switches, read from disk."""

    manifest: SwitchingManifest
    tables: SwitchingTables

    @property
    def card(self) -> str:
        """What it was measured on, and when."""
        return f"{self.manifest.provenance.get('gpu') or 'no GPU'}, {self.manifest.created}"


def find_switching(sweep: Path, *, family: str, given: Path | None = None) -> SwitchingSource | None:
    """The switches that belong to a sweep: those given, or of the same family in the sweep's directory or beside it.

    Raises:
        UsageError: what was given is no directory of switches.
        RunFormatError: one of its files is damaged.
    """
    if given is not None and not SwitchingDirectory(given).manifest.is_file():
        raise UsageError(f"--switching must be a directory of harness switching, got {given}")
    for path in (given,) if given is not None else (sweep / BESIDE, sweep.absolute().parent / BESIDE):
        directory = SwitchingDirectory(path)
        if not directory.manifest.is_file():
            continue
        manifest = directory.read_manifest()
        if given is not None or manifest.family.get("name") == family:
            return SwitchingSource(manifest=manifest, tables=switching_tables(directory))
    return None


def switching_lines(source: SwitchingSource) -> list[str]:
    """What may be said of the switches, with the card that they were measured on."""
    lines = [f"Measured on {source.card}, {source.manifest.config.get('codec')}."]
    shared = max((row.shared_images for row in source.tables.rows), default=0)
    if shared:
        lines.append(f"Shared host buffers: up to {shared} experts share their place in host memory with another.")
    reasons = [reason for row in source.tables.rows for reason in row.reasons]
    reasons += [reason for beside in source.tables.interference for reason in beside.reasons]
    lines += [f"Not valid: {reason}." for reason in reasons]
    lines += [f"{row.arm}, {CASES[row.case]}: {row.message}." for row in source.tables.rows if row.message]
    return list(dict.fromkeys(lines))


def switch_cells(rows: Sequence[SwitchRow]) -> list[list[Cell]]:
    """Rows of `SWITCH_HEADINGS`."""
    return [_switch_cells(row) for row in rows]


def _switch_cells(row: SwitchRow) -> list[Cell]:
    low, high = row.interval or (None, None)
    moved = row.case != "resident"
    middle = row.ttft_penalty_ms if moved else row.ttft_ms
    interval = "" if middle is None else format_interval(Estimate(value=middle, low=low, high=high), "number")
    copy = None if row.copy_ms is None else Estimate(value=row.copy_ms, low=row.copy_ms_low, high=row.copy_ms_high)
    return [
        Cell(row.arm),
        Cell(_place(row)),
        Cell(format_count(row.n)),
        Cell(format_number(row.ttft_ms), "" if moved else interval),
        Cell(format_number(row.ttft_penalty_ms), interval if moved else ""),
        Cell(format_number(row.copy_ms), format_interval(copy, "number")),
        Cell(format_number(row.copy_floor_ms)),
        Cell(_near_one(row.copy_ratio)),
        Cell(format_factor(row.whole_model_ratio)),
        Cell(format_factor(row.whole_model_penalty_ratio)),
        Cell(format_count(row.shared_images)),
    ]


def _place(row: SwitchRow) -> str:
    """Where the expert is; one in two bit planes computes with both once it is resident."""
    in_planes = row.case == "resident" and (row.codec or "").startswith("nested")
    return "resident, both bit planes" if in_planes else CASES[row.case]


def _near_one(ratio: float | None) -> str:
    """A ratio whose distance from 1 is the point."""
    return "–" if ratio is None else f"{ratio:.3f}"


def beside_cells(rows: Sequence[InterferenceRow]) -> list[list[Cell]]:
    """Rows of `BESIDE_HEADINGS`."""
    return [_beside_cells(row) for row in rows]


def _beside_cells(row: InterferenceRow) -> list[Cell]:
    return [
        Cell(row.arm),
        Cell(CASES[row.case]),
        Cell(FIGURES[row.figure]),
        Cell(format_number(row.without_ms)),
        Cell(format_number(row.with_ms)),
        Cell(_near_one(row.ratio), "" if row.ratio_low is None else f"[{row.ratio_low:.3f}, {row.ratio_high:.3f}]"),
        Cell(format_count(row.switches)),
    ]
