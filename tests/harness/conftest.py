"""Runs against the fake system on the fake clock, hours of load in no time; and configs of small models."""

import json
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


SMALL_MODEL = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """The config of a model that a GPU makes at once; nothing else is in its directory."""
    root = tmp_path / "small"
    root.mkdir()
    path = root / "config.json"
    path.write_text(json.dumps(SMALL_MODEL))
    return path


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """The directory of a config so small that kernels may run in the interpreter."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    root = tmp_path / "tiny"
    root.mkdir()
    (root / "config.json").write_text(json.dumps({**SMALL_MODEL, **sizes, "head_dim": 16, "vocab_size": 67}))
    return root


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
