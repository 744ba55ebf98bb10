"""A sweep as its report reads it: what it says of itself, and its cells as rows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.sweep.fit import FitRow, fit_rows
from harness.sweep.origin import cell_card
from harness.sweep.results import SweepDirectory, SweepManifest
from harness.sweep.rows import SweepRow, sweep_rows
from reports.slices import Slice, slices_of
from reports.sweep.switching import SwitchingSource, find_switching

__all__ = ["SweepSource", "read_sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSource:
    """One sweep, read from disk.

    Attributes:
        treatment: the arm the report is about.
        cards, commits: that the rows were measured on and by, each with the number of its rows.
        left_out: cells of other configurations, which the directory has too.
        switching: switches alone, measured beside the sweep; `None` if nobody did.
    """

    manifest: SweepManifest
    rows: Sequence[SweepRow]
    fits: Sequence[FitRow]
    treatment: str
    cards: Mapping[str, int] = field(default_factory=dict)
    commits: Mapping[str, int] = field(default_factory=dict)
    left_out: int = 0
    switching: SwitchingSource | None = None

    @property
    def slices(self) -> Iterator[Slice]:
        """The rows by what they have in common beside arm and experts, the largest budget first."""
        return slices_of(self.rows)


def read_sweep(path: Path, *, switching: Path | None = None) -> SweepSource:
    """Everything a report needs from a sweep's directory.

    Args:
        path: of the sweep.
        switching: a directory of `harness switching`; by default one of that name in the sweep's, or beside it, if it
            is of the same family.

    Raises:
        UsageError: there is nothing of that kind in `switching`.
        RunFormatError: a file is missing or damaged.
    """
    directory = SweepDirectory(path)
    manifest = directory.read_manifest()
    rows = tuple(sweep_rows(directory))
    arms = [row.arm for row in rows]
    treatment = "meswitch" if "meswitch" in arms or not arms else arms[0]
    cells = tuple(directory.read_cells())
    shown = [cell for cell in cells if cell.configuration == manifest.configuration]
    return SweepSource(
        manifest=manifest,
        rows=rows,
        fits=tuple(fit_rows(rows)),
        treatment=treatment,
        cards=_counted(cell_card(cell, manifest) for cell in shown),
        commits=_counted(cell.commit for cell in shown),
        left_out=len(cells) - len(rows),
        switching=find_switching(path, family=str(manifest.family.get("name")), given=switching),
    )


def _counted(values: Iterable[str | None]) -> dict[str, int]:
    """How often each was found, by name; what a cell does not say is `unknown`."""
    counts = Counter(value or "unknown" for value in values)
    return {name: counts[name] for name in sorted(counts)}
