"""Sends a schedule, open loop: each request at its own time, whatever the answers do."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.clock import Clock
from harness.drivers.base import Driver
from harness.errors import HarnessError
from harness.flight import Flight
from harness.records import Outcome, RequestRecord
from harness.schedule import ScheduledRequest
from meswitch.core import Event
from meswitch.errors import MeswitchError

__all__ = ["LoadGenerator", "LoadLimits", "Pulse"]

# after so many sends without a pause, answers are taken in, so that a late client still stamps them soon
LONGEST_BURST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLimits:
    """How a replay starts and ends.

    Attributes:
        lead_s: from the call to the arm's zero.
        drain_s: after the last scheduled time, how long to wait for what is still in flight.
        longest_poll_s: bound of one wait, so that an interruption is seen soon.
    """

    lead_s: float = 0.05
    drain_s: float = 120.0
    longest_poll_s: float = 0.1


@dataclass(slots=True)
class Pulse:
    """What the sending thread lets others see; read by the telemetry thread, never by the sender.

    Attributes:
        in_flight: requests sent and not ended.
        late_ns: times by which the loop overran its waits, until someone takes them. A deque, since the two threads
            share it: read and reset of a single number would now and then lose the overrun that came between.
    """

    zero_ns: int | None = None
    sent: int = 0
    ended: int = 0
    in_flight: int = 0
    late_ns: deque[int] = field(default_factory=deque)

    def take_late_ns(self) -> int:
        """The longest overrun since the last call, 0 if there was none."""
        longest_ns = 0
        while self.late_ns:
            longest_ns = max(longest_ns, self.late_ns.popleft())
        return longest_ns


class LoadGenerator:
    """Replays one schedule against one driver.

    Args:
        on_record: called with each record the moment its request ended.
        pulse: updated while it runs.
    """

    def __init__(
        self,
        driver: Driver,
        clock: Clock,
        *,
        arm: str,
        on_record: Callable[[RequestRecord], None],
        limits: LoadLimits | None = None,
        pulse: Pulse | None = None,
        repeat: int = 0,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._arm = arm
        self._repeat = repeat
        self._on_record = on_record
        self._limits = limits or LoadLimits()
        self._pulse = pulse or Pulse()
        self._flights: dict[str, Flight] = {}

    def replay(self, schedule: Sequence[ScheduledRequest]) -> str | None:
        """Send everything and wait for the answers; every request gets exactly one record.

        Returns:
            `None`, or why the system stopped early.
        """
        waiting = deque(schedule)
        zero_ns = self._clock.now_ns() + round(self._limits.lead_s * 1e9)
        self._pulse.zero_ns = zero_ns
        give_up_ns = zero_ns + schedule[-1].due_ns + round(self._limits.drain_s * 1e9)
        try:
            while waiting or self._flights:
                self._send_due(waiting, zero_ns)
                self._receive(self._next_moment_ns(waiting, zero_ns, give_up_ns))
                if self._clock.now_ns() >= give_up_ns:
                    break
        except (MeswitchError, HarnessError) as error:
            self._end_all("failed", type(error).__name__, str(error))
            self._leave_unsent(waiting, zero_ns, "the system had stopped")
            return f"{type(error).__name__}: {error}"
        except KeyboardInterrupt:
            # what was never due has no record: an interruption says nothing about it
            self._end_all("cancelled", "Interrupted", "the run was interrupted")
            raise
        late = f"no answer {self._limits.drain_s:g} s after the last scheduled request"
        self._end_all("timeout", "Unfinished", late)
        self._leave_unsent(waiting, zero_ns, late)
        return None

    def _send_due(self, waiting: deque[ScheduledRequest], zero_ns: int) -> None:
        for _ in range(LONGEST_BURST):
            if not waiting or zero_ns + waiting[0].due_ns > (now_ns := self._clock.now_ns()):
                return
            item = waiting.popleft()
            flight = Flight(arm=self._arm, repeat=self._repeat, scheduled=item, zero_ns=zero_ns, sent_ns=now_ns)
            self._flights[item.request.request_id] = flight
            self._pulse.sent += 1
            self._pulse.in_flight = len(self._flights)
            self._driver.send(item.request)

    def _next_moment_ns(self, waiting: deque[ScheduledRequest], zero_ns: int, give_up_ns: int) -> int:
        soonest_ns = self._clock.now_ns() + round(self._limits.longest_poll_s * 1e9)
        due_ns = zero_ns + waiting[0].due_ns if waiting else give_up_ns
        return min(soonest_ns, due_ns)

    def _receive(self, until_ns: int) -> None:
        wait_ns = max(until_ns - self._clock.now_ns(), 0)
        events = self._driver.poll(wait_ns / 1e9)
        received_ns = self._clock.now_ns()
        if received_ns > until_ns:
            self._pulse.late_ns.append(received_ns - until_ns)
        for event in events:
            self._apply(event, received_ns)

    def _apply(self, event: Event, received_ns: int) -> None:
        flight = self._flights.get(event.request_id)
        if flight is None:
            # a warm-up request, or one that was given up
            return
        record = flight.apply(event, received_ns)
        if record is not None:
            self._end(record)

    def _end(self, record: RequestRecord) -> None:
        del self._flights[record.request_id]
        self._pulse.ended += 1
        self._pulse.in_flight = len(self._flights)
        self._on_record(record)

    def _end_all(self, outcome: Outcome, error: str, message: str) -> None:
        now_ns = self._clock.now_ns()
        for flight in list(self._flights.values()):
            self._end(flight.record(outcome, now_ns, error=error, message=message))

    def _leave_unsent(self, waiting: deque[ScheduledRequest], zero_ns: int, why: str) -> None:
        while waiting:
            flight = Flight(arm=self._arm, repeat=self._repeat, scheduled=waiting.popleft(), zero_ns=zero_ns)
            self._pulse.ended += 1
            self._on_record(flight.record("unsent", None, error="Unsent", message=why))
