"""Measures the cells of a plan, engine by engine; what is there already is left as it is."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.clock import Clock, MonotonicClock
from harness.drivers.base import Driver
from harness.drivers.local import LocalDriver, LocalDrivers
from harness.engines import describe_engine
from harness.errors import DriverError, HarnessError
from harness.loadgen import Pulse
from harness.planning import describe_family, warm_page_cache
from harness.provenance import collect_provenance, python_command
from harness.records import NS_PER_S, RequestRecord
from harness.results import to_json_object
from harness.run import plain_stats, start_outcome
from harness.sweep.loop import CellLoop, CellWindow
from harness.sweep.origin import CellOrigin, cell_origin, check_card
from harness.sweep.plan import EngineGroup, PlannedCell, SweepPlan, engine_groups, refusal
from harness.sweep.results import MEASURED, CellOutcome, CellRecord, SweepDirectory, SweepManifest
from harness.sweep.workload import cell_requests, touch_requests
from harness.telemetry import GpuMonitor, Sample, Sampler, read_samples
from meswitch.config import EngineConfig
from meswitch.core import Failed, Finished
from meswitch.errors import EngineError, MeswitchError
from workloads.arrivals import ArrivalConfig, arrival_times
from workloads.generate import seeded_stream

__all__ = ["SweepProgress", "execute_sweep", "is_done"]

TOUCH_TIMEOUT_S = 600.0


@dataclass(slots=True)
class SweepProgress:
    """What a display may show.

    Attributes:
        on_engine: one starts: of which arm, with how many experts.
        on_start: it did: after how many seconds, and how many of them each phase took.
        on_cell: a cell has a result.
    """

    on_engine: Callable[[str, int], None] = field(default=lambda arm, experts: None)
    on_start: Callable[[float, Mapping[str, float]], None] = field(default=lambda seconds, phases: None)
    on_cell: Callable[[CellRecord], None] = field(default=lambda record: None)


def execute_sweep(
    plan: SweepPlan,
    directory: SweepDirectory,
    *,
    gpu: GpuMonitor,
    clock: Clock | None = None,
    make_driver: Callable[[EngineConfig], Driver] | None = None,
    progress: SweepProgress | None = None,
    time_limit_s: float | None = None,
) -> int:
    """How many cells are left, after measuring what has no result yet and writing each as soon as it is there.

    Args:
        make_driver: of an engine; by default each has a process of its own, but that a GPU's share one, in turn.
        time_limit_s: after so many seconds nothing is begun; a further call goes on.

    Raises:
        UsageError: another card has measured cells of the same configuration.
        HarnessError or MeswitchError: a disk refuses.
    """
    manifest = _manifest(plan, gpu)
    origin = cell_origin(manifest.provenance, device=plan.options.device)
    check_card(directory, configuration=plan.configuration, card=origin.gpu)
    if _is_over(plan, directory):
        return 0
    directory.write_manifest(manifest)
    deadline_s = None if time_limit_s is None else time.monotonic() + time_limit_s
    with ExitStack() as stack:
        if make_driver is None:
            make_driver = LocalDriver
            if plan.options.device == "cuda":
                make_driver = drivers = LocalDrivers()
                stack.callback(drivers.close)
        session = _Session(
            plan=plan,
            directory=directory,
            gpu=gpu,
            clock=clock or MonotonicClock(),
            make_driver=make_driver,
            progress=progress or SweepProgress(),
            origin=origin,
            gpu_before_bytes=gpu.read(None).memory_bytes,
        )
        try:
            return _measure_groups(session, deadline_s)
        except BaseException:
            directory.remove_if_empty()
            raise


def _measure_groups(session: "_Session", deadline_s: float | None) -> int:
    left = 0
    for group in engine_groups(session.plan):
        missing = [cell for cell in group.cells if not is_done(session.directory, cell)]
        if missing and deadline_s is not None and time.monotonic() >= deadline_s:
            left += len(missing)
        elif missing:
            left += session.measure(group, missing, deadline_s)
    return left


def is_done(directory: SweepDirectory, cell: PlannedCell) -> bool:
    """Whether there is a result of the same configuration; one that ended in an error is tried again."""
    found = directory.read_cell(cell.cell.key)
    return found is not None and found.config_hash == cell.config_hash and found.outcome in MEASURED


def _is_over(plan: SweepPlan, directory: SweepDirectory) -> bool:
    """Whether every cell has its result and the tables are this configuration's, so that a call changes nothing."""
    manifest = directory.known_manifest()
    if manifest is None or manifest.configuration != plan.configuration:
        return False
    return all(is_done(directory, cell) for group in engine_groups(plan) for cell in group.cells)


def _manifest(plan: SweepPlan, gpu: GpuMonitor) -> SweepManifest:
    return SweepManifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(python_command()),
        provenance=to_json_object(collect_provenance(gpu, commit=plan.commit)),
        config=to_json_object(plan.config()),
        configuration=plan.configuration,
        family=describe_family(plan.prepared, checks_answers=False),
        cells=tuple(cell.key for cell in plan.grid.cells()),
    )


@dataclass(slots=True, kw_only=True)
class _Session:
    plan: SweepPlan
    directory: SweepDirectory
    gpu: GpuMonitor
    clock: Clock
    make_driver: Callable[[EngineConfig], Driver]
    progress: SweepProgress
    origin: CellOrigin
    gpu_before_bytes: int | None
    # by arm, policy and budget: the fewest experts that did not fit, and what was said then
    _too_many: dict[tuple[str, str, int], tuple[int, str]] = field(default_factory=dict)

    def measure(self, group: EngineGroup, cells: Sequence[PlannedCell], deadline_s: float | None) -> int:
        """Measure `cells` with engines of the group's configuration; how many were not begun.

        Raises:
            HarnessError or MeswitchError: the first engine of all does not start: a mistake, and no result.
        """
        if (message := self._refusal(group, cells)) is not None:
            for planned in cells:
                self._write(self.record(group, planned, outcome="does-not-fit", message=message), (), ())
            return 0
        todo = list(cells)
        while todo:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return len(todo)
            with _Engine(group, self) as engine:
                if engine.failure is not None:
                    if _outcome(engine.failure) == "error" and not self._has_results:
                        raise engine.failure
                    self._keep_failure(group, todo, engine.failure)
                    return 0
                # an engine that stopped has taken the last cell with it; the next cells get a new one
                while todo and engine.is_usable and (deadline_s is None or time.monotonic() < deadline_s):
                    self._write(*engine.measure(todo.pop(0)))
        return 0

    def _refusal(self, group: EngineGroup, cells: Sequence[PlannedCell]) -> str | None:
        """Why no engine needs to start to know that they do not fit: arithmetic, or that fewer did not; else `None`."""
        if (message := refusal(self.plan, group)) is not None:
            return message
        cell = cells[0].cell
        known = self._too_many.get((cell.arm, cell.policy, cell.budget_bytes))
        if known is None or not group.arm.every or cell.experts < known[0]:
            return None
        return f"{known[0]} experts do not fit already: {known[1]}"

    def _keep_failure(self, group: EngineGroup, cells: Sequence[PlannedCell], error: Exception) -> None:
        outcome = _outcome(error)
        first = cells[0].cell
        if outcome in ("does-not-fit", "oom"):
            self._too_many.setdefault((first.arm, first.policy, first.budget_bytes), (group.experts, str(error)))
        for planned in cells:
            self._write(self.record(group, planned, outcome=outcome, message=str(error)), (), ())

    @property
    def _has_results(self) -> bool:
        return any(True for _ in self.directory.read_cells())

    def _write(self, record: CellRecord, requests: Sequence[RequestRecord], samples: Sequence[Sample]) -> None:
        self.directory.write_cell(record, requests, samples)
        self.progress.on_cell(record)

    def record(
        self, group: EngineGroup, planned: PlannedCell, *, outcome: CellOutcome, message: str | None = None
    ) -> CellRecord:
        """A record without a measurement."""
        prepared, workload = self.plan.prepared, self.plan.workload
        return CellRecord(
            key=planned.cell.key,
            config_hash=planned.config_hash,
            configuration=self.plan.configuration,
            family=prepared.family,
            codec=prepared.codec,
            prompt_tokens=workload.prompt_tokens,
            output_tokens=workload.output_tokens,
            **asdict(self.origin),
            cell=planned.cell,
            config=describe_engine(group.config),
            engine_experts=group.experts,
            outcome=outcome,
            message=message,
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
            shared_images=_shared_images(group.config, planned.cell.experts),
        )


class _Engine:
    """An engine while it runs, and the cells that it serves.

    Attributes:
        failure: why it did not start; `None` if it did.
        is_usable: whether it can serve another cell.
    """

    def __init__(self, group: EngineGroup, session: _Session) -> None:
        self._group = group
        self._session = session
        self._driver = session.make_driver(group.config)
        self._gpu_at_start = session.gpu.read(None).memory_bytes
        self._startup_s: float | None = None
        self._startup: Mapping[str, float] = {}
        self._touched: tuple[str, ...] = ()
        self.failure: Exception | None = None
        self.is_usable = True

    def __enter__(self) -> "_Engine":
        self._session.progress.on_engine(self._group.arm.name, self._group.experts)
        started_ns = self._session.clock.now_ns()
        config = self._group.config
        if config.synthetic is None and config.device.model_source != "disk-cold":
            warm_page_cache([config.base, *config.experts.values()])
        try:
            self._driver.start()
            self._startup = self._touch()
        except (MeswitchError, HarnessError) as error:
            self._driver.stop()
            self.failure = error
            return self
        except BaseException:
            self._driver.stop()
            raise
        self._startup_s = (self._session.clock.now_ns() - started_ns) / NS_PER_S
        self._session.progress.on_start(self._startup_s, self._startup)
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.stop()

    def measure(self, planned: PlannedCell) -> tuple[CellRecord, Sequence[RequestRecord], Sequence[Sample]]:
        """What became of a cell, its requests and its samples."""
        record = replace(
            self._session.record(self._group, planned, outcome="ok"),
            startup_s=self._startup_s,
            startup=self._startup,
            touched=self._touched,
            gpu_before_bytes=self._session.gpu_before_bytes,
            gpu_at_start_bytes=self._gpu_at_start,
        )
        self._startup_s, self._startup = None, {}
        try:
            before = plain_stats(self._driver.stats())
            window, samples = self._run(planned)
            after = plain_stats(self._driver.stats())
        except (MeswitchError, HarnessError) as error:
            self.is_usable = False
            return replace(record, outcome=_outcome(error), message=str(error)), (), ()
        sent = sorted(window.records, key=lambda r: r.index)
        self._touched = (*self._touched, *(r.expert_wanted or "" for r in sent))
        return (
            replace(
                record,
                window_ns=(window.opened_ns, window.closed_ns),
                settled=window.settled,
                sequence=tuple(r.expert_wanted or "" for r in sent),
                stats_before=before,
                stats_after=after,
            ),
            window.records,
            samples,
        )

    def _run(self, planned: PlannedCell) -> tuple[CellWindow, list[Sample]]:
        session, cell = self._session, planned.cell
        workload, vocabulary = session.plan.workload, session.plan.prepared.vocabulary
        arrivals = None
        if cell.rate_per_s is not None:
            config = ArrivalConfig(rate_per_s=cell.rate_per_s)
            arrivals = arrival_times(config, seeded_stream(workload.seed, "arrivals"))
        pulse = Pulse()
        loop = CellLoop(
            driver=self._driver,
            clock=session.clock,
            arm=cell.arm,
            workload=workload,
            in_flight=cell.in_flight,
            arrivals=arrivals,
            pulse=pulse,
        )
        requests = cell_requests(workload, planned.experts, popularity=cell.popularity, vocabulary=vocabulary)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "telemetry.jsonl"
            with Sampler(path, arm=cell.arm, pulse=pulse, pid=self._driver.pid, gpu=session.gpu):
                window = loop.run(requests)
            length_ns = window.closed_ns - window.opened_ns
            return window, [sample for sample in read_samples(path) if sample.t_ns <= length_ns]

    def _touch(self) -> Mapping[str, float]:
        """Ask once for each expert that memory holds, so that what is measured is not the filling of an empty one.

        Returns:
            Seconds of the start by phase, these among them.
        """
        started_ns = self._session.clock.now_ns()
        stats = self._driver.stats()
        slots = stats.slots if stats is not None else None
        names = tuple(self._group.cells[-1].experts)[: slots if slots is not None else None]
        for item in touch_requests(names, vocabulary=self._session.plan.prepared.vocabulary):
            self._driver.send(item.request)
            self._await_end(item.request.request_id)
        self._touched = names
        touches_s = (self._session.clock.now_ns() - started_ns) / NS_PER_S
        return {**(stats.startup_s if stats is not None else {}), "touches": touches_s}

    def _await_end(self, request_id: str) -> None:
        clock = self._session.clock
        give_up_ns = clock.now_ns() + round(TOUCH_TIMEOUT_S * NS_PER_S)
        for event in _events(self._driver, lambda: clock.now_ns() < give_up_ns):
            if event.request_id != request_id:
                continue
            if isinstance(event, Failed):
                raise EngineError(f"the first request of an expert failed: {event.error}: {event.message}")
            if isinstance(event, Finished):
                return
        raise DriverError(f"the first request of an expert was not answered within {TOUCH_TIMEOUT_S:g} s")


def _events(driver: Driver, go_on: Callable[[], bool]) -> Iterator[Failed | Finished]:
    while go_on():
        for event in driver.poll(0.1):
            if isinstance(event, Failed | Finished):
                yield event


def _outcome(error: Exception) -> CellOutcome:
    return (start_outcome(error) if isinstance(error, MeswitchError) else None) or "error"


def _shared_images(config: EngineConfig, experts: int) -> int:
    """Of a cell's experts, which are the engine's first ones: those that take another's place in host memory."""
    if config.synthetic is None or config.synthetic.host_images is None:
        return 0
    return max(experts - config.synthetic.host_images, 0)
