"""A published table: a JSON list of flat rows that grows as cells are measured, and the raw records behind it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import RunFormatError, UsageError
from harness.results import write_atomic

__all__ = ["Configuration", "FlatRow", "FlatTable", "ReadConfigurations"]

FlatRow = Mapping[str, str | int | float | None]

Configuration = Mapping[str, str | int | None]
"""What decides a row beside its key, under the names that a message gives it."""

ReadConfigurations = Callable[[Mapping[str, Any]], Iterable[tuple[Mapping[str, object], Configuration]]]
"""Of a raw record: a key and a configuration for each row that it is behind."""


class FlatTable:
    """The rows of `path`, and those that are added. A crash loses at most the rows that were being added.

    Args:
        path: a JSON file, read if it exists; `None` keeps the rows in memory. The raw records are beside it, one a
            line, in a file of the suffix `.raw.jsonl`.
        columns: of every row, in order.
        key: the columns that tell rows apart.
        read_configurations: from the raw records, for `has`.

    Raises:
        RunFormatError: a file holds something else.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        columns: Sequence[str],
        key: Sequence[str],
        read_configurations: ReadConfigurations = lambda record: (),
    ) -> None:
        self._path = path
        self._columns = tuple(columns)
        self._key = tuple(key)
        self._read_configurations = read_configurations
        self._rows = {self._key_of(row): row for row in self._read()}
        self._configurations = {
            tuple(wanted[name] for name in self._key): configuration
            for record in self._read_raw()
            for wanted, configuration in read_configurations(record)
        }

    @property
    def rows(self) -> list[FlatRow]:
        """All rows, in the order in which they were first added."""
        return list(self._rows.values())

    def __contains__(self, wanted: Mapping[str, object]) -> bool:
        """Whether there is a row with these values in the key's columns."""
        return tuple(wanted[name] for name in self._key) in self._rows

    def has(self, wanted: Mapping[str, object], configuration: Configuration) -> bool:
        """Whether there is a row of this key, measured as `configuration` says; names that it lacks are not compared.

        Raises:
            UsageError: there is one that was measured in another way, or nothing says in which.
        """
        if wanted not in self:
            return False
        key = ", ".join(f"{name} {wanted[name]}" for name in self._key)
        found = self._configurations.get(tuple(wanted[name] for name in self._key))
        if found is None:
            raise UsageError(
                f"{self._path} has a row of {key}, and nothing in {self._raw} says how it was measured; "
                "give another file to --table"
            )
        differing = [
            f"{name} {found.get(name)} there and {value} here"
            for name, value in configuration.items()
            if found.get(name) != value
        ]
        if differing:
            raise UsageError(
                f"{self._path} has a row of {key}, of another configuration ({'; '.join(differing)}); "
                "give another file to --table"
            )
        return True

    def add(self, rows: Sequence[FlatRow], *, raw: Mapping[str, object]) -> None:
        """Keep `rows`, instead of those of the same keys, and append `raw` to the raw records.

        Raises:
            OSError: the disk refuses.
        """
        for row in rows:
            if tuple(row) != self._columns:
                raise ValueError(f"a row must have the columns {', '.join(self._columns)}, got {', '.join(row)}")
            self._rows[self._key_of(row)] = row
        for wanted, configuration in self._read_configurations(raw):
            self._configurations[tuple(wanted[name] for name in self._key)] = configuration
        if self._path is None or self._raw is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # the raw record first: a row is never without it
        with self._raw.open("a", encoding="utf-8") as file:
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
                f"{self._path}: must be a list of rows with {', '.join(self._columns)}; give another file"
            )
        return rows

    @property
    def _raw(self) -> Path | None:
        return None if self._path is None else self._path.with_suffix(".raw.jsonl")

    def _read_raw(self) -> Iterable[Mapping[str, Any]]:
        if self._raw is None or not self._raw.exists():
            return
        for number, line in enumerate(self._raw.read_text(encoding="utf-8").splitlines(keepends=True), 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                # a crash tears the last line at most
                if line.endswith("\n"):
                    raise RunFormatError(f"{self._raw}, line {number}: not JSON: {error}") from error

    def _key_of(self, row: FlatRow) -> tuple[object, ...]:
        return tuple(row[name] for name in self._key)
