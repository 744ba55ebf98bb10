"""Switching measurements as tables: `switching.json` and `interference.json`, from the raw requests alone."""

from dataclasses import dataclass

from harness.sweep.build import write_rows
from harness.switching.results import SwitchingDirectory
from harness.switching.rows import InterferenceRow, SwitchRow, interference_rows, resident_rows, switch_rows

__all__ = ["SwitchingTables", "rebuild_switching", "switching_tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchingTables:
    """What the measurement comes to."""

    rows: tuple[SwitchRow, ...]
    interference: tuple[InterferenceRow, ...]


def rebuild_switching(directory: SwitchingDirectory) -> SwitchingTables:
    """The tables, after writing them. The same records give the same bytes.

    Raises:
        RunFormatError: a file is missing or damaged.
    """
    tables = switching_tables(directory)
    write_rows(directory.rows, tables.rows)
    write_rows(directory.interference, tables.interference)
    return tables


def switching_tables(directory: SwitchingDirectory) -> SwitchingTables:
    """The tables, from the raw requests; nothing is written.

    Raises:
        RunFormatError: a file is missing or damaged.
    """
    manifest = directory.read_manifest()
    settings = list(directory.read_settings())
    rows = tuple(switch_rows(settings, bytes_per_s=manifest.host_to_device_bytes_per_s))
    beside = tuple(row for setting in settings for row in (*resident_rows(setting), *interference_rows(setting)))
    return SwitchingTables(rows=rows, interference=beside)
