"""The file form of one record of `harness-trace/1`: JSON text to values and back.

Keys that the schema does not know are kept in `extra` at the top level of a record, and refused inside `sampling`,
`slo` and `recorded`, where ignoring one would change what is measured.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workloads.trace import (
    SCHEMA,
    FieldError,
    Recorded,
    Sampling,
    Slo,
    TraceHeader,
    TraceRequest,
)

__all__ = ["parse_record", "render_header", "render_request"]

Milliseconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]

KEYS = {"t_ms": "t", "delay_ms": "delay", "cancel_after_ms": "cancel_after"}
"""Fields whose key in the file leaves out the unit; the header's `time_unit` states it."""


class _Open(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


class _Closed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class _SamplingKeys(_Closed):
    temperature: Annotated[float, Field(ge=0)] = 0.0
    seed: int | None = None
    ignore_eos: bool = False


class _SloKeys(_Closed):
    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None


class _RecordedKeys(_Closed):
    model: str | None = None
    ttft_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None
    ok: bool | None = None


class _HeaderKeys(_Open):
    name: Name
    source: str | None = None
    licence: str | None = None
    sha256_of_source: str | None = None
    block_size: Positive | None = None
    seed: int | None = None
    time_unit: Literal["ms"] = "ms"
    assignment: str | None = None
    generator: Mapping[str, Any] | None = None


class _RequestKeys(_Open):
    id: Name
    t_ms: Milliseconds = Field(alias="t")
    session: str | None = None
    turn: Count | None = None
    parent: str | None = None
    delay_ms: Milliseconds | None = Field(default=None, alias="delay")
    expert: Name | None = None
    experts: tuple[tuple[Name, Milliseconds], ...] | None = None
    domain: str | None = None
    tenant: str | None = None
    priority: int = 0
    input_length: Positive | None = None
    output_length: Positive | None = None
    hash_ids: tuple[int, ...] | None = None
    prompt: str | None = None
    messages: tuple[dict[str, str], ...] | None = None
    token_ids: tuple[Count, ...] | None = None
    payload: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    sampling: _SamplingKeys | None = None
    slo: _SloKeys | None = None
    cancel_after_ms: Milliseconds | None = Field(default=None, alias="cancel_after")
    recorded: _RecordedKeys | None = None
    task: str | None = None
    answer: str | None = None
    verifier: str | None = None


Keys = TypeVar("Keys", bound=BaseModel)

NESTED: Mapping[str, Any] = {"sampling": Sampling, "slo": Slo, "recorded": Recorded}


def parse_record(text: str) -> TraceHeader | TraceRequest:
    """The record that one line of a trace holds.

    Raises:
        FieldError: naming the first field that breaks the schema.
    """
    kind = _kind(text)
    if kind == "header":
        header = _validate(_HeaderKeys, text)
        return TraceHeader(**_fields(header), extra=_extra(header, ("type", "schema")))
    request = _validate(_RequestKeys, text)
    return TraceRequest(**_fields(request), extra=_extra(request, ("type",)))


def render_header(header: TraceHeader) -> str:
    """The header as one line of JSON, without the line's end."""
    return _render({"type": "header", "schema": SCHEMA}, header)


def render_request(request: TraceRequest) -> str:
    """The request as one line of JSON, without the line's end; absent values are left out."""
    return _render({"type": "request"}, request)


def _kind(text: str) -> str:
    record = _json(text)
    if not isinstance(record, dict):
        raise FieldError("(line)", f"must be a JSON object, got {_short(record)}")
    kind = record.get("type", "request")
    if kind not in ("header", "request"):
        raise FieldError("type", f"must be 'header' or 'request', got {_short(kind)}")
    if kind == "header" and record.get("schema") != SCHEMA:
        raise FieldError("schema", f"must be {SCHEMA!r}, got {_short(record.get('schema'))}")
    return str(kind)


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except FieldError:
        raise
    except (ValueError, RecursionError) as error:
        raise FieldError("(line)", f"must be one JSON object, but {error}") from None


def _refuse_constant(name: str) -> float:
    raise FieldError("(line)", f"must be JSON, which has no {name}")


def _validate(model: type[Keys], text: str) -> Keys:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _translate(first["type"], first["loc"], first["msg"], first["input"]) from None


def _translate(kind: str, loc: tuple[int | str, ...], message: str, value: object) -> FieldError:
    name = ".".join(str(part) for part in loc) or "(line)"
    if kind == "missing":
        return FieldError(name, "must be given, and is missing")
    if kind == "extra_forbidden":
        return FieldError(name, "is not a key of the schema; keys of your own go to the top level")
    rule = message.replace("Input should be", "must be").replace("should have", "must have")
    return FieldError(name, f"{rule}, got {_short(value)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields(keys: BaseModel) -> dict[str, Any]:
    values = {name: getattr(keys, name) for name in type(keys).model_fields}
    for name, kind in NESTED.items():
        if values.get(name) is not None:
            values[name] = kind(**_fields(values[name]))
    return values


def _extra(keys: BaseModel, read_already: tuple[str, ...]) -> dict[str, Any]:
    found = {key: item for key, item in (keys.model_extra or {}).items() if key not in read_already}
    # unknown keys join what the file itself calls extra, so that a copy of a copy stays the same
    nested = found.pop("extra", {})
    if not isinstance(nested, dict):
        raise FieldError("extra", f"must be an object, got {_short(nested)}")
    return {**nested, **found}


def _render(first: dict[str, Any], value: TraceHeader | TraceRequest) -> str:
    record = dict(first)
    for item in dataclasses.fields(value):
        content = getattr(value, item.name)
        if content is None or item.name == "extra" or (item.name == "priority" and content == 0):
            continue
        key = KEYS.get(item.name, item.name)
        record[key] = _present(content) if item.name in NESTED else content
    if value.extra:
        record["extra"] = dict(value.extra)
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _present(value: Any) -> dict[str, Any]:
    return {key: item for key, item in dataclasses.asdict(value).items() if item is not None}
