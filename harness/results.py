"""A run on disk: its directory, its manifest, and files that are written whole or not at all."""

import gzip
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from harness.errors import RunFormatError, UsageError

__all__ = [
    "ArmManifest",
    "ArmOutcome",
    "Manifest",
    "RunDirectory",
    "check_runs_dir",
    "describe_invalid",
    "find_run",
    "new_run_id",
    "parse_whole_lines",
    "read_json",
    "read_lines",
    "to_json_object",
    "to_json_value",
    "write_atomic",
    "write_lines",
]

SCHEMA = "harness-run/1"

T = TypeVar("T")

ArmOutcome = Literal["ok", "does-not-fit", "oom"]
"""Whether an arm started: refused beforehand for lack of memory, or stopped by an allocation that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmManifest:
    """One arm as it was run.

    Attributes:
        order: 0 ran first.
        repeat: 0 is the arm's first time.
        outcome: `ok` if it started; what it was that did not fit, in `stopped`, else.
        page_cache: state of the operating system's file cache when the arm started, in words.
        config: the engine's resolved configuration.
        startup_s: from the start of the engine to its readiness.
        stats_before: the engine's counters after the warm-up; stats_after: at the end.
        stopped: why the system stopped early, `None` if it did not.
        gpu_before_bytes: device memory in use before the system started: other people's.
        gpu_state_before, gpu_state_after: clocks, limits and what held them back, at both ends.
    """

    name: str
    description: str
    order: int
    page_cache: str
    config: Mapping[str, JsonValue]
    warm_up_requests: int
    started: str
    repeat: int = 0
    outcome: ArmOutcome = "ok"
    startup_s: float | None = None
    stats_before: Mapping[str, JsonValue] | None = None
    stats_after: Mapping[str, JsonValue] | None = None
    stopped: str | None = None
    gpu_before_bytes: int | None = None
    gpu_state_before: Mapping[str, JsonValue] | None = None
    gpu_state_after: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was run, on what, with what. `partial` until the last arm has ended."""

    schema: str = SCHEMA
    run_id: str
    created: str
    status: Literal["complete", "partial"]
    command: tuple[str, ...]
    provenance: Mapping[str, JsonValue]
    config: Mapping[str, JsonValue]
    trace: Mapping[str, str | int | float | None]
    family: Mapping[str, str | int | float | None]
    router: Mapping[str, JsonValue] | None = None
    arms: tuple[ArmManifest, ...] = field(default=())


_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What was run."""
        return self.path / "manifest.json"

    @property
    def requests(self) -> Path:
        """One record a line."""
        return self.path / "requests.jsonl"

    @property
    def telemetry(self) -> Path:
        """One sample a line."""
        return self.path / "telemetry.jsonl"

    @property
    def summary(self) -> Path:
        """What it comes to."""
        return self.path / "summary.json"

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest, whole or not at all."""
        write_atomic(self.manifest, _MANIFEST.dump_json(manifest, indent=2) + b"\n")

    def read_manifest(self) -> Manifest:
        """The manifest.

        Raises:
            RunFormatError: there is none, or it is not one of ours.
        """
        try:
            manifest = _MANIFEST.validate_json(self.manifest.read_bytes())
        except OSError as error:
            raise RunFormatError(f"{self.path}: not a run: cannot read manifest.json: {error.strerror}") from error
        except ValidationError as error:
            raise RunFormatError(describe_invalid(self.manifest, error)) from error
        if manifest.schema != SCHEMA:
            raise RunFormatError(f"{self.manifest}, field schema: must be {SCHEMA}, got {manifest.schema}")
        return manifest


def new_run_id(now: datetime | None = None) -> str:
    """A name that sorts by time and does not collide: `2026-11-22T02-30-11Z-3f9c`."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H-%M-%SZ}-{secrets.token_hex(2)}"


def check_runs_dir(path: Path, *, option: str = "--runs-dir") -> None:
    """Nothing, if results can be kept in `path`: asked before the minutes that a run takes. Makes nothing.

    Args:
        option: that `path` was given to, for the message.

    Raises:
        UsageError: it, or the first of its parents that there is, is a file or may not be written to.
    """
    if (refused := _refused_by(path)) is not None:
        raise UsageError(f"{option} must be a directory that can be written to, and {refused} is not")


def check_file(path: Path, *, option: str = "--table") -> None:
    """Nothing, if a file can be kept at `path`: asked before the minutes that its content takes. Makes nothing.

    Args:
        option: that `path` was given to, for the message.

    Raises:
        UsageError: it is a directory, or the first of its parents that there is, is a file or may not be written to.
    """
    if path.is_dir():
        raise UsageError(f"{option} must be a file, and {path} is a directory")
    if (refused := _refused_by(path.parent)) is not None:
        raise UsageError(f"{option} must be in a directory that can be written to, and {refused} is not")


def _refused_by(path: Path) -> Path | None:
    """Of `path` and its parents the first that there is, if nothing can be made in it."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    return None if there.is_dir() and os.access(there, os.W_OK) else there


def find_run(name: str, runs_dir: Path) -> RunDirectory:
    """The run at a path, or in `runs_dir` by its id or the end of its id, or `latest`.

    Raises:
        UsageError: there is none, or several.
    """
    direct = Path(name)
    if (direct / "manifest.json").is_file():
        return RunDirectory(direct)
    known = sorted(path.parent for path in runs_dir.glob("*/manifest.json"))
    if name == "latest" and not known:
        raise UsageError(f"no runs yet in {runs_dir}; make one: harness run --trace mixed.jsonl")
    found = known[-1:] if name == "latest" else [path for path in known if path.name.endswith(name)]
    if not found and direct.is_dir():
        raise UsageError(f"{direct} is not a run: it has no manifest.json")
    if len(found) != 1:
        state = f"no run {name!r}" if not found else f"{len(found)} runs end with {name!r}"
        raise UsageError(f"{state} in {runs_dir}; give the path of a run directory")
    return RunDirectory(found[0])


def describe_invalid(path: Path, error: ValidationError) -> str:
    """One line: the file, the first field that is wrong unless it is the whole, and what is wrong with it."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{path}{', field ' if field else ''}{field}: {first['msg']}"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, so that a crash leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines, compressed, so that a crash leaves the old file or the new one. Equal lines give equal bytes."""
    # the time of writing would be part of them
    write_atomic(path, gzip.compress(b"".join(lines), mtime=0))


def read_lines(path: Path) -> list[bytes]:
    """The lines of `write_lines`.

    Raises:
        RunFormatError: the file is missing or damaged.
    """
    try:
        return gzip.decompress(path.read_bytes()).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise RunFormatError(f"{path}: cannot be read: {error}") from error


def parse_whole_lines(adapter: TypeAdapter[T], content: bytes, path: Path) -> Iterator[T]:
    """The values in `content` of a file that grows by lines; what follows its last line break is empty, or torn.

    Raises:
        RunFormatError: a line is damaged: `path` is the file that it is said of.
    """
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            yield adapter.validate_json(line)
        except ValidationError as error:
            raise RunFormatError(f"{path}, line {number}: {error.errors()[0]['msg']}") from error


def read_json(adapter: TypeAdapter[T], path: Path, *, schema: str) -> T:
    """The value of a JSON file whose field `schema` says what it is.

    Raises:
        RunFormatError: the file is missing or damaged, or of another schema.
    """
    try:
        value = adapter.validate_json(path.read_bytes())
    except OSError as error:
        raise RunFormatError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RunFormatError(describe_invalid(path, error)) from error
    found = getattr(value, "schema", None)
    if found != schema:
        raise RunFormatError(f"{path}, field schema: must be {schema}, got {found}")
    return value


def to_json_object(value: object) -> dict[str, JsonValue]:
    """`to_json_value` of a mapping or a dataclass."""
    plain = to_json_value(value)
    assert isinstance(plain, dict)
    return plain


def to_json_value(value: object) -> JsonValue:
    """`value` in JSON's own types: paths and enums become text, tuples lists."""
    return json.loads(TypeAdapter(object).dump_json(value))  # type: ignore[no-any-return]
