"""The engine: requests in, events out, one step at a time. See docs/engine.md for the life of a request."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from meswitch.batch import RunningBatch, RunningRow, unusable
from meswitch.config import SchedulerConfig
from meswitch.core import (
    AUTO,
    BASE,
    Admitted,
    EngineStats,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Residency,
    Routed,
    SwitchSpan,
    TokensGenerated,
)
from meswitch.errors import CapacityError, CheckpointError, MeswitchError
from meswitch.expert_profile import Detokenizer, ExpertProfile
from meswitch.pool import Pool
from meswitch.router.base import Query, Route, Router
from meswitch.router.tag import TagRouter
from meswitch.scheduler import Scheduler
from meswitch.store import LoadFailed

__all__ = ["SwitchEngine"]

PREFILLS_PER_STEP = 4
"""Prompts computed between two tokens of the running rows: more would make those rows stutter."""

ROUTES_PER_STEP = 8


@dataclass(slots=True, kw_only=True, eq=False)
class _Live:
    """A request that has not ended."""

    request: GenerationRequest
    expert: str = ""
    token_ids: tuple[int, ...] = ()
    queued_ns: int = 0
    row: RunningRow | None = None
    detokenizer: Detokenizer = field(default_factory=lambda: Detokenizer(None))
    output_tokens: int = 0


class SwitchEngine:
    """Serves experts of one base from a pool of weights. Implements `meswitch.core.Engine`; for one thread only.

    Args:
        pool: the weights, and what is resident of them.
        batch: the rows that run.
        profiles: by expert, `BASE` included: the experts that can be asked for.
        scheduler: limits of batching.
        router: for requests that name no expert; `None` refuses them.
        budget_bytes: as configured, for the statistics.
        kv_bytes: of the batch's cache.
        memory_plan, is_reference, startup_s: for the statistics.
        on_close: stops what the builder started.
        clock_ns: monotonic.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        batch: RunningBatch,
        profiles: Mapping[str, ExpertProfile],
        scheduler: SchedulerConfig,
        router: Router | None,
        budget_bytes: int,
        kv_bytes: int,
        memory_plan: Mapping[str, int] | None = None,
        is_reference: bool = False,
        startup_s: Mapping[str, float] | None = None,
        on_close: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._pool = pool
        self._batch = batch
        self._profiles = profiles
        self._config = scheduler
        self._scheduler = Scheduler(scheduler)
        self._tags = TagRouter(profiles)
        self._router = router
        self._budget_bytes = budget_bytes
        self._kv_bytes = kv_bytes + (router.kv_bytes if router else 0)
        self._memory_plan = dict(memory_plan or {})
        self._is_reference = is_reference
        self._startup_s = dict(startup_s or {})
        self._on_close = on_close
        self._clock_ns = clock_ns
        self._live: dict[str, _Live] = {}
        self._unrouted: deque[_Live] = deque()
        self._cancelled: list[str] = []
        self._by_row: dict[RunningRow, _Live] = {}
        self._spans: dict[str, SwitchSpan] = {}
        self._events: list[Event] = []
        self._hits = 0

    def submit(self, request: GenerationRequest) -> None:
        """Queue `request`; a request that cannot be served answers with `Failed` at the next step.

        Raises:
            ValueError: if a request of that id is in flight.
        """
        if request.request_id in self._live:
            raise ValueError(f"request_id must be unique among requests in flight, got {request.request_id!r} twice")
        live = _Live(request=request)
        self._live[request.request_id] = live
        self._unrouted.append(live)

    def cancel(self, request_id: str) -> None:
        """Stop a request; it ends with `Finished(reason="cancelled")`. Unknown ids are ignored."""
        if request_id in self._live:
            self._cancelled.append(request_id)

    @property
    def has_work(self) -> bool:
        """Whether a request is queued, loading or running."""
        return bool(self._live)

    def step(self) -> Sequence[Event]:
        """Cancel, take in what was loaded, route, admit and compute one token for each row: what happened, in order."""
        self._events = []
        self._cancel()
        self._pool.eager = not len(self._batch)
        self._end_switches()
        self._route()
        self._admit()
        self._decode()
        # rows that ended here must not keep an evicted expert's matrices alive until the next request comes
        self._batch.settle()
        return self._events

    def stats(self) -> EngineStats:
        """Counters and bytes at this moment."""
        router_bytes = self._router.nbytes if self._router else 0
        return EngineStats(
            weight_bytes={**self._pool.weight_bytes, "router": router_bytes},
            kv_bytes=self._kv_bytes,
            budget_bytes=self._budget_bytes,
            hits=self._hits,
            slots=self._pool.slots,
            memory_plan=self._memory_plan,
            tiers=self._pool.tier_counters,
            first_plane_tokens=self._batch.first_plane_tokens,
            is_reference=self._is_reference,
            startup_s=self._startup_s,
            **self._pool.counters,
        )

    def check_integrity(self) -> None:
        """Nothing, if all books agree; `EngineError` else."""
        self._pool.check_integrity()

    def close(self) -> None:
        """Stop threads and free weights. Idempotent."""
        self._live.clear()
        self._unrouted.clear()
        self._pool.close()
        self._on_close()

    def _cancel(self) -> None:
        for request_id in self._cancelled:
            live = self._live.get(request_id)
            if live is None:
                continue
            self._scheduler.remove(request_id)
            if live in self._unrouted:
                self._unrouted.remove(live)
            self._finish(live, "cancelled")
        self._cancelled = []

    def _end_switches(self) -> None:
        for ended in self._pool.poll():
            if not isinstance(ended, LoadFailed):
                self._spans[ended.span.expert] = ended.span
                continue
            for waiting in self._scheduler.remove_all(ended.expert):
                self._fail(self._live[waiting.request_id], ended.error)

    def _route(self) -> None:
        asked: list[_Live] = []
        while self._unrouted and len(asked) < ROUTES_PER_STEP:
            live = self._unrouted.popleft()
            if live.request.expert == AUTO and self._router is not None:
                asked.append(live)
                continue
            started_ns = self._clock_ns()
            try:
                expert = self._tags.resolve(live.request.expert)
            except MeswitchError as error:
                self._fail(live, error)
            else:
                self._queue(live, Route(expert=expert, confidence=None), started_ns)
        if asked and self._router is not None:
            started_ns = self._clock_ns()
            queries = [Query(text=self._query_text(live.request), tag=AUTO) for live in asked]
            for live, route in zip(asked, self._router.route(queries), strict=True):
                self._queue(live, route, started_ns)

    def _query_text(self, request: GenerationRequest) -> str:
        if request.prompt is not None:
            return request.prompt
        if request.messages is not None:
            asked = [message for message in request.messages if message.get("role") == "user"]
            return asked[-1].get("content", "") if asked else ""
        tokenizer = self._profiles[BASE].tokenizer
        return tokenizer.decode(request.token_ids, skip_special_tokens=True) if tokenizer is not None else ""

    def _queue(self, live: _Live, route: Route, started_ns: int) -> None:
        request_id, live.expert = live.request.request_id, route.expert
        self._events.append(
            Routed(
                request_id=request_id,
                at_ns=self._clock_ns(),
                started_ns=started_ns,
                expert=route.expert,
                confidence=route.confidence,
            )
        )
        try:
            profile = self._profiles[live.expert]
            live.token_ids = profile.encode(live.request)
            self._check_length(live)
            live.detokenizer = Detokenizer(profile.tokenizer)
            live.queued_ns = self._clock_ns()
            self._scheduler.enqueue(request_id, expert=live.expert, now_ns=live.queued_ns)
        except MeswitchError as error:
            self._fail(live, error)

    def _check_length(self, live: _Live) -> None:
        given, wanted = len(live.token_ids), live.request.sampling.max_tokens
        if not given:
            raise CheckpointError(f"a request must have at least one input token, {live.expert} makes none of it")
        if given + wanted > self._config.max_context_tokens:
            raise CapacityError(
                f"input and output may have {self._config.max_context_tokens} tokens together, got {given} + {wanted}; "
                "shorten the prompt or lower max_tokens"
            )

    def _admit(self) -> None:
        if not len(self._scheduler):
            return
        plan = self._scheduler.plan(
            self._clock_ns(),
            free_rows=min(self._batch.free_rows, PREFILLS_PER_STEP),
            resident=self._pool.resident,
            loading=self._pool.loading,
        )
        # leases first: a load of this step must not evict what this step admits
        admitted = [self._live[waiting.request_id] for waiting in plan.admit]
        for live in admitted:
            live.row = self._batch.new_row(live.expert, self._pool.lease(live.expert), live.request.sampling)
        for wanted in plan.load:
            if not self._pool.request(wanted.expert, keep=wanted.keep):
                break
        for live in admitted:
            self._prefill(live)

    def _prefill(self, live: _Live) -> None:
        assert live.row is not None
        span = self._spans.get(live.expert)
        waited = span is not None and span.ready_ns > live.queued_ns
        self._hits += not waited
        self._events.append(
            Admitted(
                request_id=live.request.request_id,
                at_ns=self._clock_ns(),
                residency=span.source if span is not None and waited else Residency.RESIDENT,
                switch=span if waited else None,
                input_tokens=len(live.token_ids),
            )
        )
        self._by_row[live.row] = live
        try:
            _check_vocabulary(live, live.row.weights.vocabulary)
            token = self._batch.add(live.row, live.token_ids)
        except MeswitchError as error:
            self._fail(live, error)
        else:
            if token is not None:
                self._advance(live, token)

    def _decode(self) -> None:
        for row, token in self._batch.decode():
            live = self._by_row[row]
            if token is None:
                self._fail(live, unusable(live.expert))
            else:
                self._advance(live, token)

    def _advance(self, live: _Live, token: int) -> None:
        live.output_tokens += 1
        sampling = live.request.sampling
        stops = token in self._profiles[live.expert].end_tokens and not sampling.ignore_eos
        ends = stops or live.output_tokens == sampling.max_tokens
        text = live.detokenizer.push(token) + (live.detokenizer.flush() if ends else "")
        self._events.append(
            TokensGenerated(request_id=live.request.request_id, at_ns=self._clock_ns(), token_ids=(token,), text=text)
        )
        if ends:
            self._finish(live, "stop" if stops else "length")

    def _finish(self, live: _Live, reason: FinishReason) -> None:
        self._forget(live)
        self._events.append(
            Finished(
                request_id=live.request.request_id,
                at_ns=self._clock_ns(),
                reason=reason,
                input_tokens=len(live.token_ids),
                output_tokens=live.output_tokens,
            )
        )

    def _fail(self, live: _Live, error: MeswitchError) -> None:
        self._forget(live)
        self._events.append(
            Failed(
                request_id=live.request.request_id,
                at_ns=self._clock_ns(),
                error=type(error).__name__,
                message=str(error),
            )
        )

    def _forget(self, live: _Live) -> None:
        del self._live[live.request.request_id]
        if live.row is not None:
            self._by_row.pop(live.row, None)
            self._batch.discard(live.row)
            self._pool.release(live.expert)
            live.row = None


def _check_vocabulary(live: _Live, vocabulary: int) -> None:
    low, high = min(live.token_ids), max(live.token_ids)
    if low < 0 or high >= vocabulary:
        raise CheckpointError(
            f"tokens of {live.expert} must be at least 0 and below its vocabulary, {vocabulary}, "
            f"got {low if low < 0 else high}"
        )
