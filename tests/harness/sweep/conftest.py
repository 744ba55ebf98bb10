"""Sweeps of the fake system on the fake clock."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.arms import parse_arms
from harness.clock import FakeClock
from harness.drivers.fake import FakeDriver, FakePlan
from harness.engines import EngineOptions
from harness.prepared import DeltaSize
from harness.sweep.cells import Grid
from harness.sweep.plan import SweepPlan
from harness.sweep.workload import Workload
from meswitch.config import EngineConfig
from meswitch.core import EngineStats
from tests.harness.shape_families import prepared_shapes

MS = 1_000_000
SIZE = DeltaSize(whole=10, linears=6, full_model=50, bits_per_weight=2.0, bits_per_weight_whole=3.0, dense=0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_plan() -> Callable[..., SweepPlan]:
    """A plan for shapes of 100 bytes a model and 10 bytes an expert."""

    def make(
        arms: str = "meswitch",
        experts: Sequence[int] = (1, 2),
        *,
        workload: Workload | None = None,
        budgets: Sequence[int] = (1000,),
        **grid: Any,
    ) -> SweepPlan:
        names = tuple(f"e{number}" for number in range(max(experts)))
        prepared = prepared_shapes(names, size=SIZE)
        return SweepPlan(
            grid=Grid(arms=parse_arms(arms), experts=tuple(experts), budgets=tuple(budgets), **grid),
            workload=workload or Workload(prompt_tokens=4, output_tokens=3, seconds=0.2, warm_up_s=0.05),
            options=EngineOptions(device="cuda", dtype="bfloat16"),
            prepared=prepared,
            experts=names,
        )

    return make


@pytest.fixture
def make_driver(clock: FakeClock) -> Callable[..., FakeDriver]:
    """A system that answers in 10 ms, with two tokens more, one each 5 ms."""

    def make(config: EngineConfig | None = None, *, serial: bool = False, **plan: Any) -> FakeDriver:
        def planned(request: Any) -> FakePlan:
            timing = {"first_token_ns": 10 * MS, "gap_ns": 5 * MS, "tokens": ("a", "b", "c"), **plan}
            return FakePlan(expert=request.expert, **timing)

        stats = EngineStats(
            weight_bytes={"base": 100, "codes": 20},
            kv_bytes=0,
            budget_bytes=1000,
            switches=0,
            evictions=0,
            hits=0,
            moved_bytes=0,
            slots=len(config.experts) if config else 2,
            startup_s={"imports": 0.5},
        )
        return FakeDriver(planned, clock, serial=serial, stats=stats)

    return make
