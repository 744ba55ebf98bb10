"""Which waiting requests get a row, and which experts are wanted in memory: continuous batching as a pure plan.

Requests of experts that are resident are admitted first come, first served; a request whose expert is missing waits
for it while younger ones go on. A request that waited `max_wait_s` and whose expert cannot even be loaded, because
running rows hold all the room, stops the admission of everything younger: the rows drain and make room for it.
Which missing expert is brought first is the config's `order`: the oldest request's, or the one most requests wait for.
"""

import heapq
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from meswitch.config import SchedulerConfig
from meswitch.errors import CapacityError

__all__ = ["Plan", "Scheduler", "Waiting", "Wanted"]

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request that has an expert but no row yet."""

    request_id: str
    expert: str
    arrived_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A missing expert, and the experts that older requests wait for: those must not be evicted for it."""

    expert: str
    keep: Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do in this step.

    Attributes:
        admit: requests that get a row, in order.
        load: missing experts in the order in which to ask for them; if one finds no room, none after it is asked for.
    """

    admit: Sequence[Waiting]
    load: Sequence[Wanted]


class Scheduler:
    """The queue of waiting requests. Pure: time, free rows and residency are arguments."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._queues: dict[str, deque[tuple[int, Waiting]]] = {}
        self._experts: dict[str, str] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._experts)

    @property
    def wanted(self) -> Collection[str]:
        """Experts that a request waits for."""
        return self._queues.keys()

    def enqueue(self, request_id: str, *, expert: str, now_ns: int) -> None:
        """Queue a request behind those that are waiting.

        Raises:
            CapacityError: if the queue is full.
        """
        if len(self) >= self._config.max_queue:
            raise CapacityError(f"at most {self._config.max_queue} requests may wait; send this one again later")
        waiting = Waiting(request_id=request_id, expert=expert, arrived_ns=now_ns)
        self._queues.setdefault(expert, deque()).append((self._arrivals, waiting))
        self._experts[request_id] = expert
        self._arrivals += 1

    def remove(self, request_id: str) -> bool:
        """Whether the request was waiting; it is not any more."""
        expert = self._experts.pop(request_id, None)
        if expert is None:
            return False
        kept = deque(entry for entry in self._queues[expert] if entry[1].request_id != request_id)
        self._set_queue(expert, kept)
        return True

    def remove_all(self, expert: str) -> Sequence[Waiting]:
        """The requests that waited for `expert`, oldest first; they wait no more."""
        removed = [waiting for _, waiting in self._queues.pop(expert, ())]
        for waiting in removed:
            del self._experts[waiting.request_id]
        return removed

    def plan(self, now_ns: int, *, free_rows: int, resident: Collection[str], loading: Collection[str]) -> Plan:
        """The admissions and loads of this step; admitted requests leave the queue.

        Args:
            now_ns: on the clock of `enqueue`.
            free_rows: requests that can be admitted.
            resident: experts that a row can be computed with.
            loading: experts that will be resident soon.
        """
        heads = [(queue[0][0], expert) for expert, queue in self._queues.items()]
        heapq.heapify(heads)
        admit: list[Waiting] = []
        load: list[Wanted] = []
        earlier: list[str] = []
        while heads:
            _, expert = heapq.heappop(heads)
            if expert in resident:
                if len(admit) < free_rows:
                    admit.append(self._pop(expert))
                    if expert in self._queues:
                        heapq.heappush(heads, (self._queues[expert][0][0], expert))
                        continue
            elif expert not in loading:
                load.append(Wanted(expert=expert, keep=tuple(earlier)))
                if self._is_overdue(expert, now_ns):
                    free_rows = len(admit)
            earlier.append(expert)
        if self._config.order == "grouped":
            load = self._grouped(load, now_ns, held={*resident, *loading})
        return Plan(admit=admit, load=load)

    def _grouped(self, load: Sequence[Wanted], now_ns: int, *, held: Collection[str]) -> list[Wanted]:
        """`load` with overdue experts first, as they are, and the others by the number of requests that wait."""
        ordered = [wanted for wanted in load if self._is_overdue(wanted.expert, now_ns)]
        # what is here, or on its way, and asked for is served out before anything replaces it
        keep = [expert for expert in self._queues if expert in held]
        keep += [wanted.expert for wanted in ordered]
        others = [wanted.expert for wanted in load if wanted not in ordered]
        # the sort is stable, and `load` is in order of age
        for expert in sorted(others, key=lambda expert: -len(self._queues[expert])):
            ordered.append(Wanted(expert=expert, keep=tuple(keep)))
            keep.append(expert)
        return ordered

    def _is_overdue(self, expert: str, now_ns: int) -> bool:
        waited_ns = now_ns - self._queues[expert][0][1].arrived_ns
        return waited_ns >= self._config.max_wait_s * NS_PER_S

    def _pop(self, expert: str) -> Waiting:
        queue = self._queues[expert]
        _, waiting = queue.popleft()
        self._set_queue(expert, queue)
        del self._experts[waiting.request_id]
        return waiting

    def _set_queue(self, expert: str, queue: deque[tuple[int, Waiting]]) -> None:
        if queue:
            self._queues[expert] = queue
        else:
            del self._queues[expert]
