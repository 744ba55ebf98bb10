"""Switching measurements on disk: facts of each setting, and all its requests; whole or not there at all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue, TypeAdapter

from harness.raw_records import RawRecords
from harness.records import RequestRecord
from harness.results import read_json, write_atomic
from harness.telemetry.sample import Sample

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

    @property
    def settings(self) -> RawRecords:
        """The raw records of all settings, by name."""
        return RawRecords(self.path / "settings")

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
        """Write a setting, whole or not at all."""
        self.settings.write(record.name, _SETTING.dump_json(record, indent=1), requests, samples)

    def read_settings(self) -> Iterator[MeasuredSetting]:
        """Facts, requests and samples of the settings that the manifest's call has measured, and no other call.

        Raises:
            RunFormatError: a file is damaged.
        """
        manifest = self.read_manifest()
        for name in manifest.settings:
            path = self.settings.facts(name)
            if not path.exists():
                continue
            record = read_json(_SETTING, path, schema=SCHEMA)
            if record.measurement == manifest.measurement:
                yield MeasuredSetting(record, self.settings.read_requests(name), self.settings.read_samples(name))
