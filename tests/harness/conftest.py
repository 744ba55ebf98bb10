"""Runs against the fake system on the fake clock: hours of load in no time."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from harness.clock import FakeClock
from harness.drivers.fake import FakeDriver, FakePlan
from harness.loadgen import LoadLimits
from harness.results import Manifest, RunDirectory
from harness.run import ArmPlan, Progress, RunPlan, execute
from harness.schedule import build_schedule
from harness.telemetry import NullGpu
from meswitch.core import EngineStats, GenerationRequest
from workloads.trace import Trace, TraceHeader, TraceRequest

MS = 1_000_000

Plan = Callable[[GenerationRequest], FakePlan]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_trace() -> Callable[[Sequence[TraceRequest]], Trace]:
    return lambda requests: Trace(header=TraceHeader(name="made"), requests=tuple(requests), sha256="0" * 64)


@pytest.fixture
def make_stats() -> Callable[..., EngineStats]:
    def make(**weight_bytes: int) -> EngineStats:
        return EngineStats(
            weight_bytes=weight_bytes,
            kv_bytes=7,
            budget_bytes=1000,
            switches=0,
            evictions=0,
            hits=0,
            moved_bytes=0,
        )

    return make


@pytest.fixture
def run_arms(
    tmp_path: Path, clock: FakeClock, make_trace: Callable[[Sequence[TraceRequest]], Trace]
) -> Callable[..., tuple[RunDirectory, bool]]:
    """Replay requests against one fake system for each arm; the run's directory and whether it was interrupted."""

    def run(
        requests: Sequence[TraceRequest],
        arms: dict[str, Plan],
        *,
        limits: LoadLimits | None = None,
        warm_up: int = 0,
        repeats: int = 1,
        may_not_fit: Collection[str] = (),
        progress: Progress | None = None,
        **driver: object,
    ) -> tuple[RunDirectory, bool]:
        manifest = Manifest(
            run_id="run",
            created="2026-11-22T00:00:00+00:00",
            status="partial",
            command=("harness", "run"),
            provenance={},
            config={},
            trace={"name": "made", "requests": len(requests), "duration_s": 1.0},
            family={"name": "fake", "experts": 2, "model_bytes": 100},
        )
        plan = RunPlan(
            manifest=manifest,
            schedule=build_schedule(make_trace(requests), router="tag", experts=("a", "b")),
            arms=[
                ArmPlan(
                    name=name,
                    description="fake",
                    page_cache="none",
                    config={},
                    make_driver=lambda arm=arm: FakeDriver(arm, clock, **driver),
                    may_not_fit=name in may_not_fit,
                )
                for name, arm in arms.items()
            ],
            warm_up=warm_up,
            repeats=repeats,
            limits=limits or LoadLimits(),
        )
        return execute(plan, tmp_path, clock=clock, gpu=NullGpu(), progress=progress)

    return run
