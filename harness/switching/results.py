"""Switching measurements on disk: facts of each setting, and all its requests; whole or not there at all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue, TypeAdapter

from harness.records import RequestRecord, dump_line, parse_line
from harness.results import read_json, read_lines, write_atomic, write_lines
from harness.telemetry.sample import Sample, dump_sample, parse_sample

__all__ = ["MeasuredSetting", "SettingRecord", "SwitchingDirectory", "SwitchingManifest"]

SCHEMA = "harness-switching/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRecord:
    """What is known of one setting beside its requests.

    Attributes:
        measurement: as in the manifest of the call that measured it.
        family: whose experts; codec: `None` for whole models.
        copies_ms: of each pair, in their order; `None` where a pair's copy was not timed alone.
        shared_images: experts without a place of their own in host memory.
        stats: the engine's counters at the end.
        outcome: `ok`, or why it was not measured, in `message`.
    """

    schema: str = SCHEMA
    name: str
    measurement: str
    family: str
    arm: str
    case: str
    expert_bytes: int
    outcome: str
    codec: str | None = None
    message: str | None = None
    copies_ms: tuple[float | None, ...] = ()
    shared_images: int = 0
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    stats: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchingManifest:
    """What was measured, on what, with what.

    Attributes:
        measurement: sixteen letters, over options, weights, commit, bandwidth and the moment of the call: only settings
            with the same ones were measured together.
        host_to_device_bytes_per_s: of copies of 1 GiB from pinned memory, measured before the first engine; `None` if
            there was nothing to measure.
        settings: names, in the order of measuring.
    """

    schema: str = SCHEMA
    measurement: str
    created: str
    command: tuple[str, ...]
    provenance: Mapping[str, JsonValue]
    config: Mapping[str, JsonValue]
    family: Mapping[str, str | int | float | None]
    host_to_device_bytes_per_s: float | None
    settings: tuple[str, ...]


class MeasuredSetting(NamedTuple):
    """One setting as it lies on disk."""

    record: SettingRecord
    requests: Sequence[RequestRecord]
    samples: Sequence[Sample]


_SETTING = TypeAdapter(SettingRecord)
_MANIFEST = TypeAdapter(SwitchingManifest)


@dataclass(frozen=True, slots=True)
class SwitchingDirectory:
    """The files of one measurement."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What was measured."""
        return self.path / "switching-manifest.json"

    @property
    def rows(self) -> Path:
        """What a switch costs whoever waits, as flat rows."""
        return self.path / "switching.json"

    @property
    def interference(self) -> Path:
        """What it costs the others, as flat rows."""
        return self.path / "interference.json"

    def setting(self, name: str) -> Path:
        """The facts of a setting."""
        return self.path / "settings" / f"{name}.json"

    def requests(self, name: str) -> Path:
        """The raw requests of a setting."""
        return self.path / "settings" / f"{name}.requests.jsonl.gz"

    def telemetry(self, name: str) -> Path:
        """The samples of a setting's time."""
        return self.path / "settings" / f"{name}.telemetry.jsonl.gz"

    def write_manifest(self, manifest: SwitchingManifest) -> None:
        """Replace the manifest, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.manifest, _MANIFEST.dump_json(manifest, indent=2) + b"\n")

    def read_manifest(self) -> SwitchingManifest:
        """The manifest.

        Raises:
            RunFormatError: there is none, or it is not one of ours.
        """
        return read_json(_MANIFEST, self.manifest, schema=SCHEMA)

    def write_setting(
        self, record: SettingRecord, requests: Sequence[RequestRecord], samples: Sequence[Sample] = ()
    ) -> None:
        """Write a setting; its facts come last, so that where they are, all of it is."""
        self.setting(record.name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(self.requests(record.name), map(dump_line, requests))
        write_lines(self.telemetry(record.name), map(dump_sample, samples))
        write_atomic(self.setting(record.name), _SETTING.dump_json(record, indent=1) + b"\n")

    def read_settings(self) -> Iterator[MeasuredSetting]:
        """Facts, requests and samples of the settings that the manifest's call has measured, and no other call.

        Raises:
            RunFormatError: a file is damaged.
        """
        manifest = self.read_manifest()
        for name in manifest.settings:
            if not self.setting(name).exists():
                continue
            record = read_json(_SETTING, self.setting(name), schema=SCHEMA)
            if record.measurement == manifest.measurement:
                yield MeasuredSetting(record, self._read_requests(name), self._read_samples(name))

    def _read_requests(self, name: str) -> list[RequestRecord]:
        path = self.requests(name)
        return [parse_line(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)]

    def _read_samples(self, name: str) -> list[Sample]:
        path = self.telemetry(name)
        return [parse_sample(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)]
