"""A published table: a JSON list of flat rows that grows as cells are measured, and the raw records behind it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import RunFormatError
from harness.results import write_atomic

__all__ = ["FlatRow", "FlatTable"]

FlatRow = Mapping[str, str | int | float | None]


class FlatTable:
    """The rows of `path`, and those that are added. A crash loses at most the rows that were being added.

    Args:
        path: a JSON file, read if it exists; `None` keeps the rows in memory. The raw records are beside it, one a
            line, in a file of the suffix `.raw.jsonl`.
        columns: of every row, in order.
        key: the columns that tell rows apart.

    Raises:
        RunFormatError: the file holds something else.
    """

    def __init__(self, path: Path | None, *, columns: Sequence[str], key: Sequence[str]) -> None:
        self._path = path
        self._columns = tuple(columns)
        self._key = tuple(key)
        self._rows = {self._key_of(row): row for row in self._read()}

    @property
    def rows(self) -> list[FlatRow]:
        """All rows, in the order in which they were first added."""
        return list(self._rows.values())

    def __contains__(self, wanted: Mapping[str, object]) -> bool:
        """Whether there is a row with these values in the key's columns."""
        return tuple(wanted[name] for name in self._key) in self._rows

    def add(self, rows: Sequence[FlatRow], *, raw: Mapping[str, object]) -> None:
        """Keep `rows`, instead of those of the same keys, and append `raw` to the raw records.

        Raises:
            OSError: the disk refuses.
        """
        for row in rows:
            if tuple(row) != self._columns:
                raise ValueError(f"a row must have the columns {', '.join(self._columns)}, got {', '.join(row)}")
            self._rows[self._key_of(row)] = row
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # the raw record first: a row is never without it
        with self._path.with_suffix(".raw.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(raw) + "\n")
        write_atomic(self._path, (json.dumps(self.rows, indent=1) + "\n").encode())

    def _read(self) -> Sequence[FlatRow]:
        if self._path is None or not self._path.exists():
            return []
        try:
            rows = json.loads(self._path.read_bytes())
        except ValueError as error:
            raise RunFormatError(f"{self._path}: not a table in JSON: {error}") from error
        if not isinstance(rows, list) or any(
            not isinstance(row, dict) or set(row) != set(self._columns) for row in rows
        ):
            raise RunFormatError(
                f"{self._path}: must be a list of rows with {', '.join(self._columns)}; give another file to --json"
            )
        return rows

    def _key_of(self, row: FlatRow) -> tuple[object, ...]:
        return tuple(row[name] for name in self._key)
