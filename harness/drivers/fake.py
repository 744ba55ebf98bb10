"""A system with exactly known latencies, and nothing behind it: proves the client, and removes the model from tests.

On a fake clock a run of hours takes no time; on the real one `harness selftest` compares what the client measured
with what was planned.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.clock import Clock
from meswitch.core import (
    Admitted,
    EngineStats,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    Residency,
    Routed,
    SwitchSpan,
    TokensGenerated,
)

__all__ = ["FakeDriver", "FakePlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakePlan:
    """What happens to one request, in nanoseconds after it starts.

    Attributes:
        expert: who answers.
        first_token_ns: from start to first token; gap_ns: between tokens.
        tokens: the text of each token.
        route_ns, switch_ns: parts of the time to the first token, in this order; no route is the choice of a tag.
        source: class of the request; `host` and `disk` wait for a switch.
        fails: end with this message instead of tokens; never_ends: no event after the first token.
    """

    expert: str = "base"
    first_token_ns: int = 10_000_000
    gap_ns: int = 1_000_000
    tokens: tuple[str, ...] = ("o", "k")
    input_tokens: int = 4
    route_ns: int = 0
    switch_ns: int = 0
    source: Residency = Residency.RESIDENT
    moved_bytes: int = 0
    fails: str | None = None
    never_ends: bool = False


class FakeDriver:
    """Serves every request by its plan.

    Args:
        plan: what happens to a request.
        clock: real or fake; `poll` waits on it.
        serial: serve one request at a time, in order of arrival, as an overloaded engine does.
        busy_ns: what the client itself loses on each `send`; on a fake clock only, to play an overloaded client.
        stats: what the system says of itself.
    """

    def __init__(
        self,
        plan: Callable[[GenerationRequest], FakePlan],
        clock: Clock,
        *,
        serial: bool = False,
        busy_ns: int = 0,
        stats: EngineStats | None = None,
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._serial = serial
        self._busy_ns = busy_ns
        self._stats = stats
        self._free_at_ns = 0
        self._due: list[tuple[int, int, Event]] = []
        self._sequence = 0

    @property
    def pid(self) -> int | None:
        """`None`: it lives in the client's process."""
        return None

    def start(self) -> None:
        """Nothing to start."""

    def send(self, request: GenerationRequest) -> None:
        """Plan every event of the request."""
        now_ns = self._clock.now_ns()
        start_ns = max(now_ns, self._free_at_ns) if self._serial else now_ns
        events = _events(request.request_id, start_ns, self._plan(request))
        for event in events:
            heapq.heappush(self._due, (event.at_ns, self._sequence, event))
            self._sequence += 1
        self._free_at_ns = events[-1].at_ns
        self._clock.sleep_until_ns(now_ns + self._busy_ns)

    def cancel(self, request_id: str) -> None:
        """Forget what is planned for one request, and end it."""
        planned = [entry for entry in self._due if entry[2].request_id == request_id]
        if not planned:
            return
        self._due = [entry for entry in self._due if entry[2].request_id != request_id]
        heapq.heapify(self._due)
        end = Finished(
            request_id=request_id, at_ns=self._clock.now_ns(), reason="cancelled", input_tokens=0, output_tokens=0
        )
        heapq.heappush(self._due, (end.at_ns, self._sequence, end))
        self._sequence += 1

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """The events that are due, after waiting for the first one at most `timeout_s`."""
        until_ns = self._clock.now_ns() + round(timeout_s * 1e9)
        if self._due:
            until_ns = min(until_ns, self._due[0][0])
        self._clock.sleep_until_ns(until_ns)
        events = []
        while self._due and self._due[0][0] <= self._clock.now_ns():
            events.append(heapq.heappop(self._due)[2])
        return events

    def stats(self) -> EngineStats | None:
        """What was given at construction."""
        return self._stats

    def stop(self) -> None:
        """Forget what is planned."""
        self._due.clear()


def _events(request_id: str, start_ns: int, plan: FakePlan) -> list[Event]:
    routed_ns = start_ns + plan.route_ns
    ready_ns = routed_ns + plan.switch_ns
    confidence = 1.0 if plan.route_ns else None
    events: list[Event] = [
        Routed(request_id=request_id, at_ns=routed_ns, started_ns=start_ns, expert=plan.expert, confidence=confidence)
    ]
    if plan.fails is not None:
        events.append(Failed(request_id=request_id, at_ns=ready_ns, error="FakeError", message=plan.fails))
        return events
    events.append(_admission(request_id, routed_ns, ready_ns, plan))
    token_ns = start_ns + plan.first_token_ns
    for i, text in enumerate(plan.tokens):
        at_ns = token_ns + i * plan.gap_ns
        events.append(TokensGenerated(request_id=request_id, at_ns=at_ns, token_ids=(i,), text=text))
        if plan.never_ends:
            return events
    events.append(
        Finished(
            request_id=request_id,
            at_ns=events[-1].at_ns,
            reason="stop",
            input_tokens=plan.input_tokens,
            output_tokens=len(plan.tokens),
        )
    )
    return events


def _admission(request_id: str, routed_ns: int, ready_ns: int, plan: FakePlan) -> Admitted:
    switch = None
    if plan.source is not Residency.RESIDENT:
        switch = SwitchSpan(
            expert=plan.expert,
            source=plan.source,
            decided_ns=routed_ns,
            ready_ns=ready_ns,
            moved_bytes=plan.moved_bytes,
        )
    return Admitted(
        request_id=request_id,
        at_ns=ready_ns,
        residency=plan.source,
        switch=switch,
        input_tokens=plan.input_tokens,
    )
