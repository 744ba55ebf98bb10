"""Where the figures of a cell come from: the card, its driver and the versions that decide how fast it computes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import UsageError
from harness.provenance import recorded_commit
from harness.sweep.results import MEASURED, CellRecord, SweepDirectory, SweepManifest
from harness.telemetry import card_name

__all__ = ["CellOrigin", "cell_card", "cell_origin", "check_card"]

VERSIONS = ("torch", "triton")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOrigin:
    """What a call stamps on each of its cells, as `CellRecord` has it."""

    commit: str | None = None
    gpu: str | None = None
    gpu_driver: str | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)


def cell_origin(provenance: Mapping[str, object], *, device: str) -> CellOrigin:
    """The part of `collect_provenance`'s values that goes into each cell.

    Args:
        provenance: of the call.
        device: that the engines compute on; on `cpu` a card that is there as well measures nothing.
    """
    found, driver = provenance.get("versions"), provenance.get("gpu_driver")
    versions = found if isinstance(found, Mapping) else {}
    card = card_name(provenance.get("gpu")) if device == "cuda" else None
    return CellOrigin(
        commit=recorded_commit(provenance),
        gpu=card,
        gpu_driver=driver if card is not None and isinstance(driver, str) else None,
        versions={name: versions.get(name) for name in VERSIONS},
    )


def cell_card(record: CellRecord, manifest: SweepManifest | None) -> str | None:
    """The card that measured a cell; of a record that does not say, the one of the call that the manifest tells of."""
    return record.gpu or (card_name(manifest.provenance.get("gpu")) if manifest is not None else None)


def check_card(directory: SweepDirectory, *, configuration: str, card: str | None) -> None:
    """Nothing, if every result of the configuration was measured on `card`, or no card is there to measure on.

    Raises:
        UsageError: a result is another card's, and the same tables would show both.
    """
    if card is None:
        return
    manifest = directory.known_manifest()
    for record in directory.known_cells():
        found = cell_card(record, manifest)
        if record.configuration == configuration and record.outcome in MEASURED and found not in (None, card):
            raise UsageError(
                f"all cells of {directory.path} must be measured on one card: {record.key} was on {found}, and this "
                f"one is {card}; give another --out"
            )
