"""The manifest: everything a delta directory says about itself. Written last, read first."""

import json
from pathlib import Path
from typing import Any, Final, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meswitch.errors import DeltaFormatError

__all__ = [
    "MANIFEST_FILE",
    "SCHEMA",
    "AllocationRecord",
    "BaseRecord",
    "ByteCounts",
    "CalibrationRecord",
    "CodecRecord",
    "ExpertRecord",
    "FileRecord",
    "LicenceRecord",
    "Manifest",
    "ParameterRecord",
    "SearchRecord",
    "decode_manifest",
    "encode_manifest",
]

SCHEMA: Final = "meswitch-delta/1"
MANIFEST_FILE = "manifest.json"


class Record(BaseModel):
    """A frozen part of the manifest; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LicenceRecord(Record):
    """What a model's card and files say of its licence; `None` where they say nothing."""

    name: str | None
    notices: tuple[str, ...] = ()


class BaseRecord(Record):
    """The base that the delta was taken from."""

    identity: str
    name: str
    revision: str | None
    model_type: str
    tied_head: bool
    licence: LicenceRecord


class ExpertRecord(Record):
    """The expert that was compressed."""

    kind: Literal["checkpoint", "adapter"]
    identity: str
    name: str
    revision: str | None
    tied_head: bool
    vocabulary_rows: int
    licence: LicenceRecord


class CodecRecord(Record):
    """A codec with all its options, and the spec string that asks for it."""

    name: str
    options: dict[str, str | int | float | bool]
    spec: str


class CalibrationRecord(Record):
    """The texts that input statistics were collected from."""

    file: str
    blake3: str
    texts: int


class SearchRecord(Record):
    """A choice of codecs by what they do to the expert's own distribution: measured linear by linear, or searched for.

    Attributes:
        generations: of the search; 0 where what was measured was taken.
        texts: the first so many calibration texts; start, found: KL of one of their tokens before and after, in nats.
    """

    generations: int
    texts: int
    start: float
    found: float


class AllocationRecord(Record):
    """How the codecs of single linears were chosen, where they were.

    Attributes:
        budget_bytes: that all linears together might take.
        candidates: specs, of which each linear has one; `parameters` says which.
        linears: how many have each of them.
        error: summed over the linears, weighted by their inputs if there were calibration texts.
        least_error: what no choice among the candidates can go below.
        search: how they were measured or searched for, where they were.
    """

    budget_bytes: int
    candidates: tuple[str, ...]
    linears: dict[str, int]
    error: float
    least_error: float
    search: SearchRecord | None = None


class ParameterRecord(Record):
    """One parameter.

    Attributes:
        shape: in the expert; the last `added_rows` of its rows are stored as they are.
        dtype: in the expert, by its safetensors name.
        codec: of the delta over the other rows; `None` where all values are the expert's own.
        base_parameter: what the delta is added to.
        nbytes: of everything stored for it.
    """

    name: str
    kind: Literal["linear", "embedding", "head", "exact"]
    shape: tuple[int, ...]
    dtype: str
    codec: str | None
    options: dict[str, str | int | float | bool]
    base_parameter: str | None
    added_rows: int
    nbytes: int


class ByteCounts(Record):
    """Bytes by group.

    `linears` and `whole` (everything) are the two published figures; `full_model` is what the expert's own checkpoint
    takes.
    """

    linears: int
    embedding: int
    head: int
    exact: int
    added_rows: int
    whole: int
    full_model: int


class FileRecord(Record):
    """One file of the directory."""

    nbytes: int
    blake3: str


class Manifest(Record):
    """A delta directory's description of itself.

    Attributes:
        layout: how codes are packed; `meswitch_kernels.packing.LAYOUT`.
        codecs: by group: `linear`, `embedding`, `head`; linears of several codecs are `mixed`, with no options.
        allocation: how those were chosen; `None` where all linears have one codec.
        selection: how salient channels were chosen, and how inputs were weighed, in a sentence.
        bits_per_weight: of `linears` and `whole`, padding, steps and indices included.
        relative_delta_norm: by group, the delta's norm over the base's.
        quality: figures measured for this expert, if any.
        files: every other file of the directory, by its path in it.
    """

    schema_version: Literal["meswitch-delta/1"] = SCHEMA
    name: str
    created: str
    meswitch_version: str
    layout: str
    base: BaseRecord
    expert: ExpertRecord
    codecs: dict[str, CodecRecord]
    allocation: AllocationRecord | None = None
    calibration: CalibrationRecord | None
    selection: str
    parameters: tuple[ParameterRecord, ...]
    nbytes: ByteCounts
    bits_per_weight: dict[str, float]
    relative_delta_norm: dict[str, float]
    quality: dict[str, Any] | None = None
    tokenizer_files: tuple[str, ...]
    files: dict[str, FileRecord] = Field(default_factory=dict)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as a JSON file that carries its own checksum."""
    body = manifest.model_dump(mode="json")
    return (json.dumps({**body, "blake3": _digest(body)}, indent=1, ensure_ascii=False) + "\n").encode()


def decode_manifest(content: bytes, path: Path) -> Manifest:
    """The manifest in `content`, which was read from `path`.

    Raises:
        DeltaFormatError: it is not a manifest of this schema, or its checksum does not fit.
    """
    try:
        body = json.loads(content)
        found, version = body.pop("blake3", None), body.get("schema_version")
    except (ValueError, AttributeError, TypeError) as cause:
        raise DeltaFormatError(f"{path} is damaged: it is not a JSON object; remove it and compress again") from cause
    if version != SCHEMA:
        raise DeltaFormatError(
            f"{path} must have schema_version {SCHEMA!r}, got {version!r}; compress the expert again"
        )
    if found != _digest(body):
        raise DeltaFormatError(f"{path} is damaged: its checksum does not fit; compress or copy the expert again")
    try:
        return Manifest.model_validate(body)
    except ValidationError as cause:
        first = cause.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DeltaFormatError(f"{path}, field {field}: {first['msg']}") from cause


def _digest(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return str(blake3(canonical.encode()).hexdigest())
