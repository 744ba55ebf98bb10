"""A client for one request at a time, and for a few at once, that keeps what each of them did."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.clock import Clock
from harness.drivers.base import Driver
from harness.errors import DriverError
from harness.flight import Flight
from harness.loadgen import Pulse
from harness.records import NS_PER_S, RequestRecord
from harness.schedule import ScheduledRequest
from harness.token_prompts import TokenPrompts
from meswitch.core import GenerationRequest, SamplingParams
from workloads.trace import Slo

__all__ = ["SwitchClient"]

POLL_S = 0.05
ANSWER_TIMEOUT_S = 120.0


@dataclass(slots=True)
class SwitchClient:
    """Sends requests of drawn tokens; stamps count from `zero_ns`, the moment at which it was made.

    Attributes:
        arm: for the records.
        prompts: where tokens come from.
        pulse: updated while it works; its zero is the client's.
    """

    driver: Driver
    clock: Clock
    arm: str
    prompts: TokenPrompts
    pulse: Pulse = field(default_factory=Pulse)
    zero_ns: int = 0
    _flights: dict[str, Flight] = field(default_factory=dict)
    _sent: int = 0

    def __post_init__(self) -> None:
        self.zero_ns = self.pulse.zero_ns = self.clock.now_ns()

    @property
    def in_flight(self) -> Iterable[str]:
        """Names of requests that have not ended."""
        return self._flights.keys()

    def send(
        self, expert: str, *, prompt: int, tokens: int, output_tokens: int, task: str, due_ns: int | None = None
    ) -> str:
        """Send one request; its name.

        Args:
            prompt: the same number draws the same tokens.
            tokens: of the prompt.
            task: what it is for, kept in its record.
            due_ns: on the clock; `None` where it is due when it is sent.
        """
        name, now_ns = f"s{self._sent:06d}", self.clock.now_ns()
        item = ScheduledRequest(
            index=self._sent,
            due_ns=(now_ns if due_ns is None else due_ns) - self.zero_ns,
            request=GenerationRequest(
                request_id=name,
                token_ids=self.prompts.draw(prompt, tokens),
                expert=expert,
                sampling=SamplingParams(max_tokens=output_tokens, ignore_eos=True),
            ),
            task=task,
            expert_wanted=expert,
            answer=None,
            verifier=None,
            slo=Slo(),
        )
        self._flights[name] = Flight(arm=self.arm, scheduled=item, zero_ns=self.zero_ns, sent_ns=now_ns)
        self._sent += 1
        self.driver.send(item.request)
        self.pulse.in_flight = len(self._flights)
        return name

    def receive(self, until_ns: int) -> list[RequestRecord]:
        """The requests that ended, after waiting for something to happen until `until_ns` at most."""
        events = self.driver.poll(max(until_ns - self.clock.now_ns(), 0) / NS_PER_S)
        received_ns = self.clock.now_ns()
        if received_ns > until_ns:
            self.pulse.late_ns.append(received_ns - until_ns)
        ended = []
        for event in events:
            flight = self._flights.get(event.request_id)
            record = flight.apply(event, received_ns) if flight is not None else None
            if record is not None:
                del self._flights[event.request_id]
                ended.append(record)
        self.pulse.in_flight = len(self._flights)
        return ended

    def answer(self, expert: str, *, prompt: int, tokens: int, output_tokens: int, task: str) -> RequestRecord:
        """The record of one request that nothing else runs beside.

        Raises:
            DriverError: it failed, or was not answered in time.
        """
        name = self.send(expert, prompt=prompt, tokens=tokens, output_tokens=output_tokens, task=task)
        give_up_ns = self.clock.now_ns() + round(ANSWER_TIMEOUT_S * NS_PER_S)
        while self.clock.now_ns() < give_up_ns:
            for record in self.receive(self.clock.now_ns() + round(POLL_S * NS_PER_S)):
                if record.request_id == name and record.outcome != "ok":
                    raise DriverError(f"a request for {expert} failed: {record.error}: {record.message}")
                if record.request_id == name:
                    return record
        raise DriverError(f"a request for {expert} was not answered within {ANSWER_TIMEOUT_S:g} s")

    def drain(self, keep: Callable[[RequestRecord], None]) -> None:
        """Wait for everything in flight.

        Raises:
            DriverError: it did not end in time.
        """
        give_up_ns = self.clock.now_ns() + round(ANSWER_TIMEOUT_S * NS_PER_S)
        while self._flights:
            for record in self.receive(self.clock.now_ns() + round(POLL_S * NS_PER_S)):
                keep(record)
            if self.clock.now_ns() >= give_up_ns:
                raise DriverError(f"{len(self._flights)} requests were not answered within {ANSWER_TIMEOUT_S:g} s")

    def tiers(self) -> Mapping[str, int]:
        """The system's counters of copies; empty if it offers none."""
        stats = self.driver.stats()
        return stats.tiers if stats is not None else {}
