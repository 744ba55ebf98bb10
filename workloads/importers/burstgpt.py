"""BurstGPT (CSV): seconds, model, token counts; version 2 adds sessions and elapsed time. Columns are found by name.

A row with 0 response tokens is a request that failed there; it is kept, as `recorded.ok = false`, without an output
length. The model is kept as `recorded.model`.
"""

from collections.abc import Iterator
from pathlib import Path

from workloads.importers.table import csv_rows, field_error, required_integer, required_number
from workloads.trace import Recorded, TraceRequest

__all__ = ["read_burstgpt"]

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")


def read_burstgpt(path: Path) -> Iterator[TraceRequest]:
    """Requests with times from the first row's on.

    Raises:
        TraceFormatError: naming file, line and field.
    """
    first_s: float | None = None
    for number, row in csv_rows(path, COLUMNS):
        at_s = required_number(path, number, "Timestamp", row["Timestamp"])
        first_s = at_s if first_s is None else first_s
        if at_s < first_s:
            raise field_error(path, number, "Timestamp", f"must not be before the first row's, got {at_s}")
        yield _request(path, number, row, t_ms=(at_s - first_s) * 1000)


def _request(path: Path, number: int, row: dict[str, str], *, t_ms: float) -> TraceRequest:
    context = required_integer(path, number, "Request tokens", row["Request tokens"])
    if context < 1:
        raise field_error(path, number, "Request tokens", f"must be at least 1, got {context}")
    response = required_integer(path, number, "Response tokens", row["Response tokens"])
    elapsed = row.get("Elapsed time", "")
    return TraceRequest(
        id=f"burstgpt-{number}",
        t_ms=t_ms,
        # requests through the API have no session
        session=row.get("Session ID") or None,
        input_length=context,
        output_length=response or None,
        recorded=Recorded(
            model=row["Model"],
            e2e_ms=required_number(path, number, "Elapsed time", elapsed) * 1000 if elapsed else None,
            ok=response > 0,
        ),
    )
