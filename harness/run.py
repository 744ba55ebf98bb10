"""Runs the arms of a plan one after another, each on the same schedule, and keeps every record."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from harness.clock import Clock
from harness.drivers.base import Driver
from harness.errors import DriverError, HarnessError
from harness.loadgen import LoadGenerator, LoadLimits, Pulse
from harness.records import RecordWriter, RequestRecord
from harness.results import ArmManifest, ArmOutcome, Manifest, RunDirectory, to_json_object, to_json_value
from harness.schedule import ScheduledRequest, warm_up_requests
from harness.telemetry import GpuMonitor, Sampler
from meswitch.core import EngineStats, Failed, Finished
from meswitch.errors import CapacityError, MeswitchError, StorageError

__all__ = ["ArmPlan", "Progress", "RunPlan", "execute", "plain_stats", "start_outcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPlan:
    """One arm to run.

    Attributes:
        make_driver: a fresh system, not started.
        before: called right before the system starts, outside all measurement: brings the page cache into the state
            that `page_cache` claims.
        may_not_fit: that its memory does not hold it is a result of the run, not the end of it.
    """

    name: str
    description: str
    page_cache: str
    config: dict[str, JsonValue]
    make_driver: Callable[[], Driver]
    before: Callable[[], None] = field(default=lambda: None)
    may_not_fit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Everything a run does, resolved; `manifest` lists no arms yet.

    Attributes:
        repeats: times that each arm runs: A B, B A, A B …, so that a machine that drifts favours none of them.
    """

    manifest: Manifest
    schedule: Sequence[ScheduledRequest]
    arms: Sequence[ArmPlan]
    warm_up: int = 3
    repeats: int = 1
    limits: LoadLimits = field(default_factory=LoadLimits)

    def turns(self) -> Iterator[tuple[int, ArmPlan]]:
        """Which time it is of which arm, in the order of running."""
        for repeat in range(self.repeats):
            for arm in self.arms if repeat % 2 == 0 else reversed(self.arms):
                yield repeat, arm


@dataclass(slots=True)
class Progress:
    """What a display may show. Called from the sending thread: be quick.

    Attributes:
        on_plan: an arm's engine has started on a GPU: its name, and where the memory budget went.
        on_arm: an arm starts: its name, and how many requests it will get.
        on_record: a request ended.
    """

    on_plan: Callable[[str, Mapping[str, int]], None] = field(default=lambda name, plan: None)
    on_arm: Callable[[str, int], None] = field(default=lambda name, total: None)
    on_record: Callable[[RequestRecord], None] = field(default=lambda record: None)


def execute(
    plan: RunPlan, runs_dir: Path, *, clock: Clock, gpu: GpuMonitor, progress: Progress | None = None
) -> tuple[RunDirectory, bool]:
    """The run's directory, and whether it was interrupted by the user.

    The directory holds every record as soon as its request ended. A run that fails before its first request leaves
    nothing behind.

    Raises:
        HarnessError or MeswitchError: a system cannot start, or the disk refuses.
    """
    run = RunDirectory(runs_dir / plan.manifest.run_id)
    run.path.mkdir(parents=True)
    manifest = replace(plan.manifest, status="partial", arms=())
    try:
        run.write_manifest(manifest)
        for order, (repeat, arm) in enumerate(plan.turns()):
            if any(entry.name == arm.name and entry.outcome != "ok" for entry in manifest.arms):
                continue
            session = _ArmSession(run, plan, arm, order, repeat, clock, gpu, progress or Progress())
            manifest = session.run(manifest)
    except KeyboardInterrupt:
        return _keep_or_remove(run), True
    except (MeswitchError, HarnessError) as error:
        if not _keep_or_remove(run).path.exists():
            raise
        raise DriverError(f"{error}; the records so far are kept in {run.path}") from error
    except OSError as error:
        where, why = error.filename or run.path, error.strerror or error
        kept = "; the records so far are kept" if _keep_or_remove(run).path.exists() else ""
        raise StorageError(f"{where} cannot be read or written: {why}{kept}") from error
    run.write_manifest(replace(manifest, status="complete"))
    return run, False


def _keep_or_remove(run: RunDirectory) -> RunDirectory:
    # the file is opened before the first request ends
    if not run.requests.exists() or not run.requests.stat().st_size:
        shutil.rmtree(run.path)
    return run


@dataclass(slots=True)
class _ArmSession:
    run_directory: RunDirectory
    plan: RunPlan
    arm: ArmPlan
    order: int
    repeat: int
    clock: Clock
    gpu: GpuMonitor
    progress: Progress

    def run(self, manifest: Manifest) -> Manifest:
        """Run the arm; the manifest with it. The manifest on disk is up to date at every moment."""
        self.arm.before()
        driver = self.arm.make_driver()
        started_ns = self.clock.now_ns()
        entry = self._entry()
        try:
            refusal = self._start(driver)
            if refusal is None:
                entry = replace(entry, startup_s=(self.clock.now_ns() - started_ns) / 1e9)
                return self._measure(driver, manifest, entry)
            entry = replace(entry, outcome=refusal[0], stopped=refusal[1])
            self.run_directory.write_manifest(_with(manifest, entry))
            return _with(manifest, entry)
        finally:
            driver.stop()

    def _start(self, driver: Driver) -> tuple[ArmOutcome, str] | None:
        """Why memory does not hold it, if that is a result; `None` once it runs."""
        try:
            driver.start()
        except MeswitchError as error:
            outcome = start_outcome(error)
            if outcome is None or not self.arm.may_not_fit:
                raise
            return outcome, str(error)
        return None

    def _measure(self, driver: Driver, manifest: Manifest, entry: ArmManifest) -> Manifest:
        self._say_plan(driver)
        warm_up(driver, self.plan, self.clock)
        entry = replace(entry, stats_before=plain_stats(driver.stats()), gpu_state_before=self._gpu_state())
        self.run_directory.write_manifest(_with(manifest, entry))
        try:
            entry = replace(entry, stopped=self._replay(driver))
        finally:
            entry = replace(entry, stats_after=_stats_if_alive(driver), gpu_state_after=self._gpu_state())
            self.run_directory.write_manifest(_with(manifest, entry))
        return _with(manifest, entry)

    def _gpu_state(self) -> dict[str, JsonValue] | None:
        state = self.gpu.state()
        return None if state is None else to_json_object(state)

    def _say_plan(self, driver: Driver) -> None:
        stats = driver.stats() if self.repeat == 0 else None
        if stats is not None and stats.memory_plan:
            self.progress.on_plan(self.arm.name, stats.memory_plan)

    def _replay(self, driver: Driver) -> str | None:
        pulse = Pulse()
        self.progress.on_arm(self.arm.name, len(self.plan.schedule))
        with (
            RecordWriter(self.run_directory.requests) as writer,
            Sampler(
                self.run_directory.telemetry,
                arm=self.arm.name,
                repeat=self.repeat,
                pulse=pulse,
                pid=driver.pid,
                gpu=self.gpu,
            ),
        ):

            def keep(record: RequestRecord) -> None:
                writer.append(record)
                self.progress.on_record(record)

            generator = LoadGenerator(
                driver,
                self.clock,
                arm=self.arm.name,
                repeat=self.repeat,
                on_record=keep,
                limits=self.plan.limits,
                pulse=pulse,
            )
            return generator.replay(self.plan.schedule)

    def _entry(self) -> ArmManifest:
        return ArmManifest(
            name=self.arm.name,
            description=self.arm.description,
            order=self.order,
            repeat=self.repeat,
            page_cache=self.arm.page_cache,
            config=self.arm.config,
            gpu_before_bytes=self.gpu.read(None).memory_bytes,
            warm_up_requests=min(self.plan.warm_up, len(self.plan.schedule)),
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )


def warm_up(driver: Driver, plan: RunPlan, clock: Clock) -> None:
    """Answer the first requests of the schedule one by one, outside the measurement.

    Raises:
        DriverError: one of them fails or is not answered in time.
    """
    for item, request in zip(plan.schedule, warm_up_requests(plan.schedule, plan.warm_up), strict=False):
        name = item.request.request_id
        driver.send(request)
        give_up_ns = clock.now_ns() + round(plan.limits.drain_s * 1e9)
        while True:
            if clock.now_ns() >= give_up_ns:
                raise DriverError(f"request {name} was not answered in the warm-up within {plan.limits.drain_s:g} s")
            events = driver.poll(plan.limits.longest_poll_s)
            failed = next((e for e in events if isinstance(e, Failed)), None)
            if failed is not None:
                why = f"{failed.error}: {failed.message}"
                raise DriverError(f"request {name} failed in the warm-up: {why}; --warm-up 0 measures it as a failure")
            if any(isinstance(e, Finished) for e in events):
                break


def _with(manifest: Manifest, entry: ArmManifest) -> Manifest:
    others = (arm for arm in manifest.arms if (arm.name, arm.repeat) != (entry.name, entry.repeat))
    return replace(manifest, arms=(*others, entry))


def start_outcome(error: MeswitchError) -> ArmOutcome | None:
    """What kind of lack of memory kept a system from starting; `None` if it was something else."""
    if isinstance(error, CapacityError):
        return "does-not-fit"
    # of torch; the engine's process names the class of whatever ended it
    return "oom" if "OutOfMemoryError" in str(error) else None


def _stats_if_alive(driver: Driver) -> dict[str, JsonValue] | None:
    try:
        return plain_stats(driver.stats())
    except (MeswitchError, HarnessError):
        # the record of why it stopped is kept elsewhere; bytes of a dead process are undefined
        return None


def plain_stats(stats: EngineStats | None) -> dict[str, JsonValue] | None:
    """The counters in JSON's own types."""
    if stats is None:
        return None
    value = to_json_value(stats)
    return value if isinstance(value, dict) else None
