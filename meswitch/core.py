"""The values every stage of serving shares: requests in, events out, and the engine between them.

All times are `time.monotonic_ns()`: one clock for every process of a machine, so that a client's stamps and the
engine's can be subtracted from each other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

__all__ = [
    "AUTO",
    "BASE",
    "Admitted",
    "Engine",
    "EngineStats",
    "Event",
    "Failed",
    "FinishReason",
    "Finished",
    "GenerationRequest",
    "Residency",
    "Routed",
    "SamplingParams",
    "SwitchSpan",
    "TokensGenerated",
]

AUTO = "auto"
"""The expert name that asks the router to choose."""

BASE = "base"
"""The expert name that asks for the base model itself."""

FinishReason = Literal["stop", "length", "cancelled"]


class Residency(StrEnum):
    """Where an expert's weights were when its request was admitted: the class of a request."""

    RESIDENT = "resident"
    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    Attributes:
        max_tokens: at most so many output tokens.
        temperature: 0 is greedy.
        seed: of this request's own generator, 0 to 2^64 - 1; 0 is a seed, `None` draws one.
        ignore_eos: go on to `max_tokens` whatever is generated.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    seed: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be a finite number of at least 0, got {self.temperature}")
        if self.seed is not None and not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed must be from 0 to 2^64 - 1, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One query. Exactly one of `prompt`, `messages` and `token_ids` is given.

    Attributes:
        request_id: unique among the requests in flight.
        prompt: text, tokenised with the special tokens that the tokenizer adds by itself.
        messages: a chat, rendered by the expert's own template.
        token_ids: used as they are.
        expert: an expert's name, `BASE`, or `AUTO` to let the router choose.
    """

    request_id: str
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    token_ids: tuple[int, ...] | None = None
    expert: str = AUTO
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        given = sum(x is not None for x in (self.prompt, self.messages, self.token_ids))
        if given != 1:
            raise ValueError(f"exactly one of prompt, messages, token_ids must be given, got {given}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchSpan:
    """One switch: making an expert resident that was not.

    Attributes:
        source: where the weights came from (`HOST` or `DISK`).
        decided_ns: when the store was asked; `ready_ns`: when a row could be computed with it.
        moved_bytes: bytes read or copied for it.
        evicted: the experts that had to go.
    """

    expert: str
    source: Residency
    decided_ns: int
    ready_ns: int
    moved_bytes: int
    evicted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """The router, or the request's own tag, named an expert. `confidence` is `None` for a tag."""

    request_id: str
    at_ns: int
    started_ns: int
    expert: str
    confidence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The request holds a row of the batch from now on.

    `residency` is the class at the moment the scheduler first considered the request; `switch` is the switch this
    request had to wait for, also when another request caused it; `None` for `RESIDENT`.
    """

    request_id: str
    at_ns: int
    residency: Residency
    switch: SwitchSpan | None
    input_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensGenerated:
    """Output tokens, at least one. `text` may be empty while a character is incomplete."""

    request_id: str
    at_ns: int
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The last event of a request that was answered. `output_tokens` counts the end token if one was generated."""

    request_id: str
    at_ns: int
    reason: FinishReason
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The last event of a request that was not answered: the error's class name and its one-line message."""

    request_id: str
    at_ns: int
    error: str
    message: str


Event = Routed | Admitted | TokensGenerated | Finished | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters since start, and bytes as they are now.

    Attributes:
        weight_bytes: by part: `base`, `codes`, `dense_cache`, `router` (delta weights); `experts`, `router` (full).
        kv_bytes: allocated for keys and values.
        budget_bytes: what `weight_bytes` may sum up to.
        switches, evictions, hits, moved_bytes: since start.
        slots: experts, or whole models, that fit at once; `None` where bytes decide and not places.
        memory_plan: where the budget of a GPU went, by part; empty on the CPU.
        tiers: what a GPU's host memory holds and what was copied from it, as `meswitch.cuda.tiers` counts; empty on the
            CPU.
        first_plane_tokens: output tokens computed before their expert's second bit plane was in place.
        is_reference: whether a GPU was asked for, but the CPU's plain PyTorch serves: no result of it is a benchmark.
        startup_s: seconds that building it took, by phase.
    """

    weight_bytes: Mapping[str, int]
    kv_bytes: int
    budget_bytes: int
    switches: int
    evictions: int
    hits: int
    moved_bytes: int
    slots: int | None = None
    memory_plan: Mapping[str, int] = field(default_factory=dict)
    tiers: Mapping[str, int] = field(default_factory=dict)
    first_plane_tokens: int = 0
    is_reference: bool = False
    startup_s: Mapping[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """A serving engine: everything the harness and the server know of one."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue `request`. A request that can never be served answers with `Failed` at the next step."""

    def cancel(self, request_id: str) -> None:
        """Stop a request; it ends with `Finished(reason="cancelled")`. Unknown ids are ignored."""

    def step(self) -> Sequence[Event]:
        """Do one iteration of work and return what happened, in order. Returns at once when idle."""

    @property
    def has_work(self) -> bool:
        """Whether a request is queued, loading or running."""

    def stats(self) -> EngineStats:
        """Counters and bytes at this moment."""

    def close(self) -> None:
        """Stop threads and free what is pinned; memory of a device goes with the engine object. Idempotent."""
