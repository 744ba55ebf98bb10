"""Our throughput against each baseline's, at the largest number of experts that both were measured at."""

from collections.abc import Sequence

from harness.claims import claim_apart
from harness.summary import Estimate
from harness.sweep.rows import SweepRow
from harness.units import format_count, format_factor, format_interval, format_number
from reports.rows import Cell
from reports.sweep.source import SweepSource

__all__ = ["VERSUS_HEADINGS", "largest_common", "tokens_per_s", "versus_cells"]

VERSUS_HEADINGS = ("baseline", "popularity", "load", "experts", "ours", "theirs", "ratio", "what may be said")


def versus_cells(source: SweepSource) -> list[list[Cell]]:
    """Rows of `VERSUS_HEADINGS`: every baseline of every slice."""
    rows = []
    for part in source.slices:
        for arm in sorted({row.arm for row in part.rows} - {source.treatment}):
            pair = largest_common(part.rows, source.treatment, arm)
            if pair is not None:
                rows.append(_cells(*pair, load=part.load))
    return rows


def largest_common(rows: Sequence[SweepRow], arm: str, other: str) -> tuple[SweepRow, SweepRow] | None:
    """The cells of both at the largest number of experts at which both are valid; `None` if there is none."""
    ours, theirs = ({row.experts: row for row in rows if row.arm == name and row.valid} for name in (arm, other))
    experts = max(ours.keys() & theirs.keys(), default=None)
    return None if experts is None else (ours[experts], theirs[experts])


def tokens_per_s(row: SweepRow) -> Estimate | None:
    """Throughput with its interval."""
    if row.output_tokens_per_s is None:
        return None
    return Estimate(value=row.output_tokens_per_s, low=row.output_tokens_per_s_low, high=row.output_tokens_per_s_high)


def _cells(ours: SweepRow, theirs: SweepRow, *, load: str) -> list[Cell]:
    estimates = tokens_per_s(ours), tokens_per_s(theirs)
    claim = claim_apart(*estimates, lower="fewer", higher="more")
    return [
        Cell(theirs.arm),
        Cell(theirs.popularity),
        Cell(load),
        Cell(format_count(theirs.experts)),
        *(Cell(format_number(e.value if e else None), format_interval(e, "number")) for e in estimates),
        Cell(format_factor(_ratio(*estimates))),
        Cell(claim.text),
    ]


def _ratio(ours: Estimate | None, theirs: Estimate | None) -> float | None:
    return ours.value / theirs.value if ours and theirs and theirs.value else None
