"""A sweep on disk: for each cell one file of facts, one of raw requests, one of samples; whole or not there at all."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import JsonValue, TypeAdapter

from harness.errors import RunFormatError
from harness.raw_records import RawRecords
from harness.records import RequestRecord
from harness.results import read_json, to_json_value, write_atomic
from harness.sweep.cells import Cell
from harness.telemetry.sample import Sample

__all__ = ["MEASURED", "CellOutcome", "CellRecord", "SweepDirectory", "SweepManifest", "config_hash"]

SCHEMA = "harness-sweep/2"

CellOutcome = Literal["ok", "does-not-fit", "oom", "error"]
"""What became of a cell: measured, refused for lack of memory, ended by an allocation that failed, anything else."""

MEASURED: frozenset[CellOutcome] = frozenset({"ok", "does-not-fit", "oom"})
"""Outcomes that are results; what ended in an error is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """What is known of a cell beside its requests; every figure is computed from this and those.

    Attributes:
        config_hash: over everything that decides the cell; another one is another measurement.
        configuration: over what all cells of a call have in common; cells of another are in no table together.
        family, codec, prompt_tokens, output_tokens: that were measured, whatever later calls measure.
        commit: of the code, where it is known.
        gpu, gpu_driver: the card that measured, and its driver; `None` on a CPU, and where the record does not say.
        versions: of torch and triton.
        config: of the engine.
        outcome: what became of it; `message` says why it was not measured.
        started: when, in UTC.
        engine_experts: names that the engine knew, of which the cell asked for the first ones.
        startup_s: of the engine; `None` where it ran already, for the cell before. startup: the same by phase, as the
            engine counts them, and `touches`; what is missing is the process's own.
        window_ns: first and last moment that counts, from the cell's zero.
        settled: as in `CellWindow`.
        touched: experts in the order in which each was asked for once, before the cell.
        sequence: experts in the order in which the cell's requests were sent.
        stats_before, stats_after: the engine's counters at both ends of the cell.
        gpu_before_bytes: device memory in use before the first engine of the call: other people's.
        gpu_at_start_bytes: in use right before this engine was built: theirs, and what a process keeps that had one.
        shared_images: experts that have no place of their own in host memory, but another's.
        reasons: why the figures must not be used.
    """

    schema: str = SCHEMA
    key: str
    config_hash: str
    configuration: str
    family: str
    codec: str
    prompt_tokens: int
    output_tokens: int
    commit: str | None = None
    gpu: str | None = None
    gpu_driver: str | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    cell: Cell
    config: Mapping[str, JsonValue]
    outcome: CellOutcome
    message: str | None = None
    started: str
    engine_experts: int | None = None
    startup_s: float | None = None
    startup: Mapping[str, float] = field(default_factory=dict)
    window_ns: tuple[int, int] | None = None
    settled: bool = False
    touched: tuple[str, ...] = ()
    sequence: tuple[str, ...] = ()
    stats_before: Mapping[str, JsonValue] | None = None
    stats_after: Mapping[str, JsonValue] | None = None
    gpu_before_bytes: int | None = None
    gpu_at_start_bytes: int | None = None
    shared_images: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepManifest:
    """What was swept, on what, with what: of the last call that had something to measure, as there may be several.

    Attributes:
        configuration: of the cells that the tables show, as in `CellRecord`.
    """

    schema: str = SCHEMA
    created: str
    command: tuple[str, ...]
    provenance: Mapping[str, JsonValue]
    config: Mapping[str, JsonValue]
    configuration: str
    family: Mapping[str, str | int | float | None]
    cells: tuple[str, ...] = field(default=())


_CELL = TypeAdapter(CellRecord)
_MANIFEST = TypeAdapter(SweepManifest)


@dataclass(frozen=True, slots=True)
class SweepDirectory:
    """The files of one sweep."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What was swept."""
        return self.path / "sweep-manifest.json"

    @property
    def rows(self) -> Path:
        """All cells as flat rows."""
        return self.path / "sweep.json"

    @property
    def fit(self) -> Path:
        """Milliseconds and MiB an expert."""
        return self.path / "fit.json"

    @property
    def cells(self) -> RawRecords:
        """The raw records of all cells, by key."""
        return RawRecords(self.path / "cells")

    def write_manifest(self, manifest: SweepManifest) -> None:
        """Replace the manifest, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.manifest, _MANIFEST.dump_json(manifest, indent=2) + b"\n")

    def read_manifest(self) -> SweepManifest:
        """The manifest.

        Raises:
            RunFormatError: there is none, or it is not one of ours.
        """
        return read_json(_MANIFEST, self.manifest, schema=SCHEMA)

    def known_manifest(self) -> SweepManifest | None:
        """The manifest; `None` if there is none, or one of another format: a call replaces it then."""
        try:
            return self.read_manifest()
        except RunFormatError:
            return None

    def remove_if_empty(self) -> None:
        """Leave nothing behind of a sweep without a cell; what others put there stays."""
        if not any(self.cells.all_facts()):
            self.manifest.unlink(missing_ok=True)
            with suppress(OSError):
                self.path.rmdir()

    def write_cell(
        self, record: CellRecord, requests: Iterable[RequestRecord] = (), samples: Iterable[Sample] = ()
    ) -> None:
        """Write a cell, whole or not at all."""
        self.cells.write(record.key, _CELL.dump_json(record, indent=1), requests, samples)

    def read_cells(self) -> Iterator[CellRecord]:
        """The facts of all cells, by key.

        Raises:
            RunFormatError: one is damaged.
        """
        for path in self.cells.all_facts():
            yield read_json(_CELL, path, schema=SCHEMA)

    def known_cells(self) -> Iterator[CellRecord]:
        """The facts of all cells that `read_cell` can read, by key."""
        for path in self.cells.all_facts():
            if (record := self.read_cell(path.stem)) is not None:
                yield record

    def read_cell(self, key: str) -> CellRecord | None:
        """The facts of a cell; `None` if there are none, or of another format: it is measured again then."""
        try:
            return read_json(_CELL, self.cells.facts(key), schema=SCHEMA)
        except RunFormatError:
            return None


def config_hash(facts: Mapping[str, object]) -> str:
    """Sixteen letters that change with any of the facts."""
    plain = json.dumps(to_json_value(facts), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]
