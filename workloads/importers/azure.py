"""Azure LLM inference traces (CSV): `TIMESTAMP, ContextTokens, GeneratedTokens`, rows in order of time.

The timestamps have seven digits of a second, one more than `datetime` holds; they are kept whole.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from workloads.importers.table import csv_rows, field_error, required_integer
from workloads.trace import TraceRequest

__all__ = ["read_azure"]

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
TICKS_PER_S = 10_000_000


def read_azure(path: Path) -> Iterator[TraceRequest]:
    """Requests with times from the first row's on.

    Raises:
        TraceFormatError: naming file, line and field.
    """
    first: int | None = None
    for number, row in csv_rows(path, COLUMNS):
        ticks = _ticks(path, number, row["TIMESTAMP"])
        first = ticks if first is None else first
        if ticks < first:
            raise field_error(
                path, number, "TIMESTAMP", f"must not be before the first row's, got {row['TIMESTAMP']!r}"
            )
        yield TraceRequest(
            id=f"azure-{number}",
            t_ms=(ticks - first) * 1000 / TICKS_PER_S,
            input_length=_tokens(path, number, "ContextTokens", row),
            output_length=_tokens(path, number, "GeneratedTokens", row),
        )


def _tokens(path: Path, number: int, field: str, row: dict[str, str]) -> int:
    count = required_integer(path, number, field, row[field])
    if count < 1:
        raise field_error(path, number, field, f"must be at least 1, got {count}")
    return count


def _ticks(path: Path, number: int, text: str) -> int:
    """The moment in units of 100 ns since the year 1970; a time without a zone is taken as UTC."""
    main, dot, rest = text.strip().partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :]
    try:
        moment = datetime.fromisoformat(main + zone)
        if dot and not 1 <= len(digits) <= 7:
            raise ValueError("one to seven digits follow the point")
    except ValueError:
        raise field_error(path, number, "TIMESTAMP", f"must be a date and time, got {text!r}") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(moment.timestamp()) * TICKS_PER_S + int(digits.ljust(7, "0") if digits else 0)
