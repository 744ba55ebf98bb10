"""What one request did, as the client saw it: one line of `requests.jsonl`.

Stamps end in `_ns`, come from the monotonic clock and count from the arm's zero, the moment at which the trace's
`t = 0` was due. `None` means that it did not happen. Values derived from the stamps carry their unit (`ttft_s`) and
are computed, never stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from pydantic import TypeAdapter, ValidationError

from harness.errors import RunFormatError
from workloads.trace import Slo

__all__ = [
    "Outcome",
    "RecordWriter",
    "RequestRecord",
    "SwitchRecord",
    "dump_line",
    "iterate_records",
    "parse_line",
    "read_records",
]

Outcome = Literal["ok", "failed", "timeout", "unsent", "cancelled"]
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRecord:
    """The switch a request waited for, also when another request caused it.

    Attributes:
        source: `host` or `disk`, where the weights came from.
        decided_ns: when the store was asked.
        ready_ns: when a row could be computed with it.
        moved_bytes: bytes read or copied.
        evicted: experts that had to go.
    """

    expert: str
    source: str
    decided_ns: int
    ready_ns: int
    moved_bytes: int
    evicted: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """`ready - decided`."""
        return (self.ready_ns - self.decided_ns) / NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request of one arm; written once, when the request ended, and never edited.

    Attributes:
        index: position in the schedule, the same in every arm.
        repeat: which time of the arm, 0 the first.
        expert_wanted: the expert the trace says is right, `None` if it does not say.
        expert_chosen: the expert that answered, `None` if none was chosen.
        residency: class at admission: `resident`, `host` or `disk`.
        scheduled_ns: when it was due; sent_ns: when it left the client.
        first_token_ns, last_token_ns: the first and last event that carried tokens.
        finished_ns: the last event, also of a failure; of a timeout, when the client gave up.
        chunks: `(t_ns, tokens)` of each event that carried tokens.
        output_tokens: as the engine counts them, the end token included.
        correct: the verifier's verdict; `False` for a request with an expected answer that did not end well,
            `None` without an expected answer, and of a request that the client itself cancelled.
    """

    arm: str
    index: int
    request_id: str
    repeat: int = 0
    task: str | None = None
    expert_wanted: str | None = None
    expert_chosen: str | None = None
    router_confidence: float | None = None
    route_started_ns: int | None = None
    routed_ns: int | None = None
    residency: str | None = None
    switch: SwitchRecord | None = None
    scheduled_ns: int
    sent_ns: int | None = None
    admitted_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    finished_ns: int | None = None
    chunks: tuple[tuple[int, int], ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    outcome: Outcome
    error: str | None = None
    message: str | None = None
    output: str = ""
    answer: str | None = None
    verifier: str | None = None
    correct: bool | None = None
    slo: Slo = field(default_factory=Slo)

    @property
    def send_lag_s(self) -> float | None:
        """`sent - scheduled`: the client's own lag."""
        return _span_s(self.scheduled_ns, self.sent_ns)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: `first token - scheduled`.

        From the scheduled time, so that a stalled client or a full queue shows up as latency.
        """
        return _span_s(self.scheduled_ns, self.first_token_ns)

    @property
    def e2e_s(self) -> float | None:
        """End to end: `last token - scheduled`."""
        return _span_s(self.scheduled_ns, self.last_token_ns)

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first chunk: `(last - first) / (N_out - n_first)`.

        `None` unless tokens followed the first chunk: undefined, not zero.
        """
        span = _span_s(self.first_token_ns, self.last_token_ns)
        if span is None or not self.chunks:
            return None
        n_out = self.output_tokens if self.output_tokens is not None else self.client_tokens
        later = n_out - self.chunks[0][1]
        return span / later if later > 0 else None

    @property
    def route_s(self) -> float | None:
        """Time the router worked: `routed - route started`."""
        return _span_s(self.route_started_ns, self.routed_ns)

    @property
    def client_tokens(self) -> int:
        """Output tokens as the client counted them."""
        return sum(tokens for _, tokens in self.chunks)

    @property
    def meets_slo(self) -> bool:
        """Whether it was answered within every limit it carries. Without a limit, being answered is enough.

        An undefined TPOT breaks no limit: a reply in one chunk made nobody wait between tokens.
        """
        if self.outcome != "ok":
            return False
        pairs = (
            (self.ttft_s, self.slo.ttft_ms),
            (self.tpot_s, self.slo.tpot_ms),
            (self.e2e_s, self.slo.e2e_ms),
        )
        return all(limit is None or value is None or value * 1e3 <= limit for value, limit in pairs)


def _span_s(start_ns: int | None, end_ns: int | None) -> float | None:
    if start_ns is None or end_ns is None:
        return None
    return (end_ns - start_ns) / NS_PER_S


_RECORD = TypeAdapter(RequestRecord)


def dump_line(record: RequestRecord) -> bytes:
    """The record as one line of JSON, newline included."""
    return _RECORD.dump_json(record) + b"\n"


def parse_line(line: bytes, place: str) -> RequestRecord:
    """The record of a line of JSON, which is at `place`.

    Raises:
        RunFormatError: it is none.
    """
    try:
        return _RECORD.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "line"
        raise RunFormatError(f"{place}, field {where}: {first['msg']}") from error


def iterate_records(path: Path) -> Iterator[RequestRecord]:
    """The records of a file in the order written, which is the order in which requests ended.

    A last line without its newline is a write that was interrupted, and is left out.

    Raises:
        RunFormatError: the file is missing, a whole line is not a record, or a request has two in one arm.
    """
    seen: set[tuple[str, int, int]] = set()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RunFormatError(f"{path}: cannot read the records: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        record = parse_line(line, f"{path}, line {number}")
        key = record.arm, record.repeat, record.index
        if key in seen:
            raise RunFormatError(
                f"{path}, line {number}, field index: must be once in an arm, got {record.index} of {record.arm} again"
            )
        seen.add(key)
        yield record


def read_records(path: Path) -> list[RequestRecord]:
    """All records of a file, arm by arm as they first ran, in schedule order within each time of an arm."""
    records = list(iterate_records(path))
    order = {arm: i for i, arm in enumerate(dict.fromkeys(r.arm for r in records))}
    return sorted(records, key=lambda r: (order[r.arm], r.repeat, r.index))


class RecordWriter:
    """Appends records to a file; each line is whole and on its way to the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def append(self, record: RequestRecord) -> None:
        """Write one line."""
        self._file.write(dump_line(record))

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
