"""Sends a cell's requests: so many in flight at any moment (closed loop), or at times of their own (open loop)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from harness.clock import Clock
from harness.drivers.base import Driver
from harness.errors import DriverError
from harness.flight import Flight
from harness.loadgen import Pulse
from harness.records import NS_PER_S, RequestRecord
from harness.schedule import ScheduledRequest
from harness.sweep.workload import Workload
from meswitch.core import Event

__all__ = ["CellLoop", "CellWindow"]

POLL_S = 0.05
CANCEL_TIMEOUT_S = 60.0
# a system that refuses everything would otherwise be asked without end
MOST_FAILURES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class CellWindow:
    """What was measured of a cell.

    Attributes:
        opened_ns, closed_ns: of the window, from the cell's zero.
        settled: whether all requests that came at once in the beginning had their first tokens before it opened.
        records: of all requests, those before the window and those cancelled at its end included, as they ended.
    """

    opened_ns: int
    closed_ns: int
    settled: bool
    records: tuple[RequestRecord, ...]


@dataclass(slots=True)
class CellLoop:
    """One cell against one driver, which is left without a request in flight.

    Attributes:
        in_flight: of a closed loop; `None` for an open one.
        arrivals: seconds at which requests of an open loop are due, without end.
        pulse: updated while it runs; its zero is set when the window opens.
    """

    driver: Driver
    clock: Clock
    arm: str
    workload: Workload
    in_flight: int | None
    arrivals: Iterator[float] | None
    pulse: Pulse = field(default_factory=Pulse)
    _zero_ns: int = 0
    _flights: dict[str, Flight] = field(default_factory=dict)
    _records: list[RequestRecord] = field(default_factory=list)
    _first: set[str] = field(default_factory=set)
    _due_ns: int = 0
    _sent: int = 0
    _answered: int = 0

    def run(self, requests: Iterator[ScheduledRequest]) -> CellWindow:
        """The cell's window.

        Raises:
            DriverError or MeswitchError: the system stopped, or answers nothing.
        """
        self._zero_ns = self.clock.now_ns()
        self._due_ns = self._next_due_ns()
        opened_ns, settled = self._until_open(requests)
        # overruns of the warm-up are not the window's
        self.pulse.take_late_ns()
        self.pulse.zero_ns = self._zero_ns + opened_ns
        answered = self._answered
        end_ns = self._zero_ns + opened_ns + round(self.workload.seconds * NS_PER_S)
        most = self.workload.requests
        while self.clock.now_ns() < end_ns and (most is None or self._answered - answered < most):
            self._turn(requests, end_ns)
        closed_ns = min(self.clock.now_ns(), end_ns) - self._zero_ns
        self._cancel()
        return CellWindow(opened_ns=opened_ns, closed_ns=closed_ns, settled=settled, records=tuple(self._records))

    def _until_open(self, requests: Iterator[ScheduledRequest]) -> tuple[int, bool]:
        least_ns = self._zero_ns + round(self.workload.warm_up_s * NS_PER_S)
        most_ns = self._zero_ns + round(self.workload.warm_up_limit_s * NS_PER_S)
        while (now_ns := self.clock.now_ns()) < least_ns or (self._first and now_ns < most_ns):
            self._turn(requests, most_ns)
        return now_ns - self._zero_ns, not self._first

    def _turn(self, requests: Iterator[ScheduledRequest], until_ns: int) -> None:
        self._send(requests)
        now_ns = self.clock.now_ns()
        soonest_ns = min(now_ns + round(POLL_S * NS_PER_S), until_ns)
        if self.in_flight is None:
            soonest_ns = min(soonest_ns, self._due_ns)
        self._receive(soonest_ns)

    def _send(self, requests: Iterator[ScheduledRequest]) -> None:
        while self._may_send():
            item, now_ns = next(requests), self.clock.now_ns()
            due_ns = now_ns if self.arrivals is None else self._due_ns
            flight = Flight(
                arm=self.arm,
                scheduled=replace(item, due_ns=due_ns - self._zero_ns),
                zero_ns=self._zero_ns,
                sent_ns=now_ns,
            )
            self._flights[item.request.request_id] = flight
            if self.in_flight is not None and self._sent < self.in_flight:
                self._first.add(item.request.request_id)
            self._sent += 1
            self._due_ns = self._next_due_ns()
            self.driver.send(item.request)
        self.pulse.in_flight = len(self._flights)

    def _may_send(self) -> bool:
        if self.in_flight is not None:
            return len(self._flights) < self.in_flight
        return self.clock.now_ns() >= self._due_ns

    def _next_due_ns(self) -> int:
        # in a closed loop nothing is due before it can be sent
        return 0 if self.arrivals is None else self._zero_ns + round(next(self.arrivals) * NS_PER_S)

    def _receive(self, until_ns: int) -> None:
        events = self.driver.poll(max(until_ns - self.clock.now_ns(), 0) / NS_PER_S)
        received_ns = self.clock.now_ns()
        if received_ns > until_ns:
            self.pulse.late_ns.append(received_ns - until_ns)
        for event in events:
            self._apply(event, received_ns)

    def _apply(self, event: Event, received_ns: int) -> None:
        flight = self._flights.get(event.request_id)
        if flight is None:
            return
        record = flight.apply(event, received_ns)
        if flight.chunks or record is not None:
            self._first.discard(event.request_id)
        if record is None:
            return
        del self._flights[event.request_id]
        self._records.append(record)
        self._answered += record.outcome == "ok"
        self.pulse.ended += 1
        self._stop_if_refused(record)

    def _stop_if_refused(self, record: RequestRecord) -> None:
        if self._answered == 0 and len(self._records) >= MOST_FAILURES:
            raise DriverError(
                f"none of the first {len(self._records)} requests was answered; the last one failed with "
                f"{record.error}: {record.message}"
            )

    def _cancel(self) -> None:
        """End what is in flight, so that the next cell finds an idle system."""
        for request_id in self._flights:
            self.driver.cancel(request_id)
        give_up_ns = self.clock.now_ns() + round(CANCEL_TIMEOUT_S * NS_PER_S)
        while self._flights:
            self._receive(self.clock.now_ns() + round(POLL_S * NS_PER_S))
            if self.clock.now_ns() >= give_up_ns:
                raise DriverError(f"{len(self._flights)} cancelled requests did not end within {CANCEL_TIMEOUT_S:g} s")
