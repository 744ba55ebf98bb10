"""Mooncake (JSONL): `timestamp` in ms, `input_length`, `output_length`, `hash_ids` of blocks of 512 tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.importers.table import field_error, file_text, required_integer, required_number
from workloads.trace import TraceRequest

__all__ = ["read_mooncake"]


def read_mooncake(path: Path) -> Iterator[TraceRequest]:
    """Requests with the times of the source, which may share them: its clock has a grid of seconds.

    Raises:
        TraceFormatError: naming file, line and field.
    """
    for number, line in enumerate(file_text(path).split("\n"), start=1):
        if line.strip():
            yield _request(path, number, _object(path, number, line))


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise field_error(path, number, "(line)", f"must be one JSON object, but {error}") from None
    if not isinstance(row, dict):
        raise field_error(path, number, "(line)", f"must be a JSON object, got {type(row).__name__}")
    return row


def _request(path: Path, number: int, row: dict[str, Any]) -> TraceRequest:
    lengths = {}
    for field in ("input_length", "output_length"):
        lengths[field] = required_integer(path, number, field, row.get(field))
        if lengths[field] < 1:
            raise field_error(path, number, field, f"must be at least 1, got {lengths[field]}")
    blocks = row.get("hash_ids")
    if blocks is not None and not (isinstance(blocks, list) and all(type(block) is int for block in blocks)):
        raise field_error(path, number, "hash_ids", "must be a list of whole numbers")
    return TraceRequest(
        id=f"mooncake-{number}",
        t_ms=required_number(path, number, "timestamp", row.get("timestamp")),
        input_length=lengths["input_length"],
        output_length=lengths["output_length"],
        hash_ids=tuple(blocks) if blocks is not None else None,
    )
