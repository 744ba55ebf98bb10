"""What a trace is: a header and requests with their arrival times, as values.

The file form, `harness-trace/1`, is described in `docs/trace-format.md`; `workloads.trace_io` reads and writes it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "SCHEMA",
    "FieldError",
    "Recorded",
    "Sampling",
    "Slo",
    "Trace",
    "TraceHeader",
    "TraceRequest",
]

SCHEMA = "harness-trace/1"

INPUTS = ("input_length", "prompt", "messages", "token_ids", "payload")


class FieldError(ValueError):
    """A value of a trace breaks a rule: which field, and which rule."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}")
        self.field = field
        self.rule = rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the tokens of one request are chosen. `seed` `None` draws one; 0 is a seed."""

    temperature: float = 0.0
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What the user of one request puts up with; `None` is no bound."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the system that produced the source saw: a fact about the past, never an instruction for the replay."""

    model: str | None = None
    ttft_ms: float | None = None
    e2e_ms: float | None = None
    ok: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeader:
    """Where a trace comes from, and what in it was composed.

    Attributes:
        sha256_of_source: of the file it was imported from.
        block_size: tokens a `hash_ids` block stands for.
        seed: of everything drawn for this trace.
        assignment: how experts were given to requests whose source names none.
        generator: the resolved configuration that made the trace.
        extra: keys that the schema does not know.
    """

    name: str
    source: str | None = None
    licence: str | None = None
    sha256_of_source: str | None = None
    block_size: int | None = None
    seed: int | None = None
    time_unit: str = "ms"
    assignment: str | None = None
    generator: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.time_unit != "ms":
            raise FieldError("time_unit", f"must be 'ms', got {self.time_unit!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One request of a trace. Exactly one of the five inputs is given.

    Attributes:
        id: unique within the trace.
        t_ms: when to send it, from the start of the trace (key `t`).
        delay_ms: in a replay that follows sessions, how long after its parent's end (key `delay`).
        experts: acceptable experts with weights, where more than one is.
        input_length, output_length: tokens; `output_length` is the most that may be generated.
        hash_ids: identities of the prompt's blocks, for prefix reuse.
        cancel_after_ms: the client hangs up so long after sending (key `cancel_after`).
        task, answer, verifier: what makes the answer checkable; `answer` and `verifier` go together.
        extra: keys that the schema does not know.
    """

    id: str
    t_ms: float
    session: str | None = None
    turn: int | None = None
    parent: str | None = None
    delay_ms: float | None = None
    expert: str | None = None
    experts: tuple[tuple[str, float], ...] | None = None
    domain: str | None = None
    tenant: str | None = None
    priority: int = 0
    input_length: int | None = None
    output_length: int | None = None
    hash_ids: tuple[int, ...] | None = None
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    token_ids: tuple[int, ...] | None = None
    payload: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    sampling: Sampling | None = None
    slo: Slo | None = None
    cancel_after_ms: float | None = None
    recorded: Recorded | None = None
    task: str | None = None
    answer: str | None = None
    verifier: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.t_ms) and self.t_ms >= 0):
            raise FieldError("t", f"must be a number of at least 0, got {self.t_ms}")
        given = [name for name in INPUTS if getattr(self, name) is not None]
        if len(given) != 1:
            got = ", ".join(given) or "none"
            raise FieldError(" | ".join(INPUTS), f"exactly one of them must be given, got {got}")
        if (self.answer is None) != (self.verifier is None):
            missing = "answer" if self.answer is None else "verifier"
            raise FieldError(missing, "answer and verifier go together, and this one is missing")
        if self.delay_ms is not None and self.parent is None:
            raise FieldError("parent", "must be given where delay is: a delay counts from the parent's end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A header, requests in order of time (at least one), and the hash of the file's bytes."""

    header: TraceHeader
    requests: tuple[TraceRequest, ...]
    sha256: str

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts that requests ask for, sorted."""
        return tuple(sorted({r.expert for r in self.requests if r.expert is not None}))

    @property
    def duration_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return (self.requests[-1].t_ms - self.requests[0].t_ms) / 1000
