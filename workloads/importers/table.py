"""A foreign file's rows, with errors that say where: CSV by column name, and numbers that must be numbers."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from workloads.errors import TraceFormatError

__all__ = ["csv_rows", "field_error", "file_text", "required_integer", "required_number"]


def file_text(path: Path) -> str:
    """The file's text, from UTF-8, with or without a byte order mark.

    Raises:
        TraceFormatError: when it is missing, unreadable or no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceFormatError(f"{path.name}: must be UTF-8 text, but {error}") from None
    except OSError as error:
        raise TraceFormatError(f"{path}: cannot be read: {error.strerror or error}") from None


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values by column of each row; columns are found by name, in any order, beside others.

    Raises:
        TraceFormatError: when a column is missing, or a row is shorter or longer than the first line.
    """
    reader = csv.reader(io.StringIO(file_text(path), newline=""))
    names = [name.strip() for name in next(reader, [])]
    missing = [name for name in columns if name not in names]
    if missing:
        raise field_error(path, 1, missing[0], f"must be a column; the first line has {', '.join(names) or 'none'}")
    for row in reader:
        if not row:
            continue
        if len(row) != len(names):
            raise field_error(path, reader.line_num, "(line)", f"must have {len(names)} columns, got {len(row)}")
        yield reader.line_num, dict(zip(names, row, strict=True))


def field_error(path: Path, line: int, field: str, rule: str) -> TraceFormatError:
    """The error of one field of a foreign file, in the form that our own reader uses."""
    return TraceFormatError(f"{path.name}, line {line}, field {field}: {rule}")


def required_number(path: Path, line: int, field: str, value: object) -> float:
    """The value, which must be a number of at least 0, or text that is one.

    Raises:
        TraceFormatError: naming file, line and field.
    """
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise field_error(path, line, field, f"must be a number of at least 0, got {value!r}")
    return number


def required_integer(path: Path, line: int, field: str, value: object) -> int:
    """The value, which must be a whole number of at least 0, or text that is one.

    Raises:
        TraceFormatError: naming file, line and field.
    """
    number = required_number(path, line, field, value)
    if number != int(number):
        raise field_error(path, line, field, f"must be a whole number, got {value!r}")
    return int(number)
