"""A request between sending and its last event, as it turns into a record."""

from dataclasses import dataclass, field

from harness.records import Outcome, RequestRecord, SwitchRecord
from harness.schedule import ScheduledRequest
from meswitch.core import Admitted, Event, Failed, Finished, Routed, SwitchSpan, TokensGenerated
from workloads.verifiers import verify

__all__ = ["Flight"]


@dataclass(slots=True)
class Flight:
    """Collects the events of one request. Stamps are made relative to `zero_ns` here and nowhere else.

    Tokens and ends count when the client received them; routing, admission and switches, which the client cannot see,
    when the engine says they happened.
    """

    arm: str
    scheduled: ScheduledRequest
    zero_ns: int
    repeat: int = 0
    sent_ns: int | None = None
    routed: Routed | None = None
    admitted: Admitted | None = None
    chunks: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def apply(self, event: Event, received_ns: int) -> RequestRecord | None:
        """Take one event; the record if it was the last one."""
        match event:
            case Routed():
                self.routed = event
            case Admitted():
                self.admitted = event
            case TokensGenerated():
                self.chunks.append((received_ns - self.zero_ns, len(event.token_ids)))
                self.texts.append(event.text)
            case Finished():
                outcome: Outcome = "cancelled" if event.reason == "cancelled" else "ok"
                return self.record(outcome, received_ns, finished=event)
            case Failed():
                return self.record("failed", received_ns, error=event.error, message=event.message)
        return None

    def record(
        self,
        outcome: Outcome,
        ended_ns: int | None,
        *,
        finished: Finished | None = None,
        error: str | None = None,
        message: str | None = None,
    ) -> RequestRecord:
        """The record of a request that ended with `outcome`."""
        scheduled, routed, admitted = self.scheduled, self.routed, self.admitted
        output = "".join(self.texts)
        return RequestRecord(
            arm=self.arm,
            index=scheduled.index,
            request_id=scheduled.request.request_id,
            repeat=self.repeat,
            task=scheduled.task,
            expert_wanted=scheduled.expert_wanted,
            expert_chosen=routed.expert if routed else None,
            router_confidence=routed.confidence if routed else None,
            route_started_ns=self._relative(routed.started_ns if routed else None),
            routed_ns=self._relative(routed.at_ns if routed else None),
            residency=str(admitted.residency) if admitted else None,
            switch=self._switch(admitted.switch) if admitted and admitted.switch else None,
            scheduled_ns=scheduled.due_ns,
            sent_ns=self._relative(self.sent_ns),
            admitted_ns=self._relative(admitted.at_ns if admitted else None),
            first_token_ns=self.chunks[0][0] if self.chunks else None,
            last_token_ns=self.chunks[-1][0] if self.chunks else None,
            finished_ns=self._relative(ended_ns),
            chunks=tuple(self.chunks),
            input_tokens=admitted.input_tokens if admitted else None,
            output_tokens=finished.output_tokens if finished else None,
            finish_reason=finished.reason if finished else None,
            outcome=outcome,
            error=error,
            message=message,
            output=output,
            answer=scheduled.answer,
            verifier=scheduled.verifier,
            correct=self._verdict(outcome, output),
            slo=scheduled.slo,
        )

    def _verdict(self, outcome: Outcome, output: str) -> bool | None:
        answer, verifier = self.scheduled.answer, self.scheduled.verifier
        if answer is None or verifier is None or outcome == "cancelled":
            return None
        return outcome == "ok" and verify(verifier, answer, output)

    def _relative(self, moment_ns: int | None) -> int | None:
        return None if moment_ns is None else moment_ns - self.zero_ns

    def _switch(self, span: SwitchSpan) -> SwitchRecord:
        return SwitchRecord(
            expert=span.expert,
            source=str(span.source),
            decided_ns=span.decided_ns - self.zero_ns,
            ready_ns=span.ready_ns - self.zero_ns,
            moved_bytes=span.moved_bytes,
            evicted=span.evicted,
        )
