"""What the same bytes would take on another card: arithmetic on bandwidths from spec sheets, and no measurement."""

from collections.abc import Iterator, Mapping

from harness.sweep.rows import SweepRow
from harness.units import format_plural, format_seconds
from reports.rows import Cell
from reports.sweep.source import SweepSource

__all__ = ["CARD", "PROJECTION_HEADINGS", "PROJECTION_NOTE", "projection_cells"]

CARD = "A100 80GB SXM"

CARD_BYTES_PER_S = 2.04e12
"""Of its HBM2e."""

LINK_BYTES_PER_S = 25e9
"""Of PCIe 4.0 with 16 lanes: what is left for data of 31.5 GB/s."""

MEASURED_BYTES_PER_S: Mapping[str, float] = {"NVIDIA H100 80GB HBM3": 3.35e12}
"""Of the memory of cards that may have measured, by the driver's name."""

PROJECTION_NOTE = (
    f"Projected from bandwidth alone, never measured: nothing here ran on an {CARD}. A copy is its bytes over "
    f"{LINK_BYTES_PER_S / 1e9:g} GB/s, of PCIe 4.0 with 16 lanes. A time per token is the measured one, all of it "
    f"scaled by the ratio of the memories' bandwidths ({CARD_BYTES_PER_S / 1e12:g} TB/s there), though only what is "
    "reading would be: not the starts of kernels, and not prompts that are computed in between. No figure is a bound. "
    "Bandwidths are of the makers' sheets."
)

PROJECTION_HEADINGS = ("quantity", "measured here", f"{CARD}, projected")


def projection_cells(source: SweepSource) -> list[list[Cell]]:
    """Rows of `PROJECTION_HEADINGS`; none without a GPU."""
    here = source.manifest.provenance.get("gpu")
    if not isinstance(here, str) or here.startswith("no GPU"):
        return []
    slower = MEASURED_BYTES_PER_S[here] / CARD_BYTES_PER_S if here in MEASURED_BYTES_PER_S else None
    return [*_copies(source), *(_tokens(source, slower) if slower is not None else ())]


def _copies(source: SweepSource) -> Iterator[list[Cell]]:
    family = source.manifest.family
    model, deltas, experts = (family.get(key) for key in ("model_bytes", "delta_bytes", "experts"))
    if isinstance(deltas, int) and isinstance(experts, int) and experts:
        ours = [row.copy_mean_s for row in source.rows if row.valid and row.arm == source.treatment]
        ours += _alone(source, source.treatment, "host")
        yield _copy("one compressed expert", deltas / experts, ours)
    if isinstance(model, int):
        swaps = [row.copy_mean_s for row in source.rows if row.valid and row.arm.startswith("full-swap-host")]
        swaps += _alone(source, "full-swap-host", "host")
        yield _copy("one whole model", model, swaps)


def _alone(source: SweepSource, arm: str, case: str) -> list[float | None]:
    """Copies of the measurement of switches, on the same card."""
    switching = source.switching
    if switching is None or switching.manifest.provenance.get("gpu") != source.manifest.provenance.get("gpu"):
        return []
    rows = [row for row in switching.tables.rows if (row.arm, row.case) == (arm, case) and row.valid]
    return [row.copy_ms / 1e3 for row in rows if row.copy_ms is not None]


def _copy(words: str, nbytes: float, measured_s: list[float | None]) -> list[Cell]:
    # of cells whose copies wait for others, the one that waited least
    least_s = min((seconds for seconds in measured_s if seconds is not None), default=None)
    return [
        Cell(f"copy of {words} from pinned host memory"),
        Cell(format_seconds(least_s)),
        Cell(format_seconds(nbytes / LINK_BYTES_PER_S)),
    ]


def _tokens(source: SweepSource, slower: float) -> Iterator[list[Cell]]:
    """Of our cells in which every expert is on the device, for each load and number of experts one."""
    found: dict[tuple[int, int], tuple[SweepRow, float]] = {}
    for row in source.rows:
        resident = row.slots is None or row.slots >= row.experts
        if row.arm != source.treatment or not row.valid or not resident:
            continue
        if row.in_flight is not None and row.tpot_p50_s is not None:
            # of several popularities the first: all of them read the same weights
            found.setdefault((row.in_flight, row.experts), (row, row.tpot_p50_s))
    for (in_flight, experts), (row, tpot_s) in sorted(found.items(), key=lambda item: item[0]):
        yield [
            Cell(f"time per token, {format_plural(experts, 'expert')}, {row.popularity}, {in_flight} in flight"),
            Cell(format_seconds(tpot_s)),
            Cell(format_seconds(slower * tpot_s)),
        ]
