"""The measurement of memory uses every row, reads before and after, and closes what it started; the engine is faked."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.cli import gpu_table, run_command
from harness.errors import DriverError, UsageError
from harness.residency import MemoryOptions, command, parse_experts
from harness.residency.command import format_row
from harness.residency.measure import COLUMNS, fill, memory_row, raw_record
from harness.telemetry import GpuReading, NullGpu
from meswitch.config import EngineConfig, SyntheticConfig
from meswitch.core import BASE, EngineStats, Event, Failed, Finished, GenerationRequest
from meswitch.families import load_shape_family

FAMILY = load_shape_family("mistral-7b")
PLAN = {
    "budget_bytes": 1000,
    "context_bytes": 10,
    "base_bytes": 300,
    "slots": 3,
    "slot_bytes": 50,
    "kv_bytes": 100,
    "workspace_bytes": 40,
}
GIB = 1 << 30


class FakeEngine:
    """Ends every request at the next step."""

    def __init__(self, fails: bool = False) -> None:
        self.requests: list[GenerationRequest] = []
        self._queue: list[GenerationRequest] = []
        self._fails = fails
        self.closed = False

    def submit(self, request: GenerationRequest) -> None:
        self.requests.append(request)
        self._queue.append(request)

    def cancel(self, request_id: str) -> None:
        raise NotImplementedError

    @property
    def has_work(self) -> bool:
        return bool(self._queue)

    def step(self) -> Sequence[Event]:
        request = self._queue.pop()
        if self._fails:
            return [Failed(request_id=request.request_id, at_ns=0, error="EngineError", message="no numbers")]
        return [Finished(request_id=request.request_id, at_ns=0, reason="length", input_tokens=1, output_tokens=1)]

    def stats(self) -> EngineStats:
        return EngineStats(
            weight_bytes={},
            kv_bytes=0,
            budget_bytes=0,
            switches=0,
            evictions=0,
            hits=0,
            moved_bytes=0,
            memory_plan=PLAN,
        )

    def close(self) -> None:
        self.closed = True


class Readings(NullGpu):
    """A driver that gives these readings, one after the other."""

    def __init__(self, *readings: GpuReading) -> None:
        super().__init__("Fake GPU")
        self._readings = list(readings)

    def read(self, pid: int | None) -> GpuReading:
        return self._readings.pop(0)


def options(**changes: object) -> MemoryOptions:
    given = {"family": "mistral-7b", "experts": 3, "budget_bytes": 76 * GIB, "kv_tokens": 64, "max_rows": 4}
    return MemoryOptions(**{**given, "synthetic": SyntheticConfig(host_images=1), **changes})  # type: ignore[arg-type]


def filled_with(gpu: Readings, engine: FakeEngine, config: EngineConfig, said: list[str]):  # type: ignore[no-untyped-def]
    def torch_counts() -> dict[str, int]:
        assert not engine.closed
        return {"reserved": 550}

    return fill(config, vocabulary=100, start=lambda _: engine, gpu=gpu, read_torch=torch_counts, say=said.append)


def test_every_row_is_used_to_its_end_and_the_counts_are_of_the_full_device() -> None:
    engine, said = FakeEngine(), list[str]()
    gpu = Readings(GpuReading(memory_bytes=7), GpuReading(memory_bytes=620, process_bytes=605))
    config = options().engine_config(FAMILY)
    filled = filled_with(gpu, engine, config, said)
    assert engine.closed
    assert [r.expert for r in engine.requests] == ["expert-000", "expert-001", "expert-002", "expert-000"]
    # 64 tokens over 4 rows: 16 of each, prompt and answer
    for request in engine.requests:
        assert request.token_ids is not None
        assert len(request.token_ids) + request.sampling.max_tokens == 16
        assert max(request.token_ids) < 100
    assert filled.served == 4
    row = memory_row(filled, family="mistral-7b", codec="rtn:bits=4")
    assert tuple(row) == COLUMNS
    # 10 + 300 + 3 x 50 + 100 + 40
    assert list(row.values()) == ["mistral-7b", "rtn:bits=4", 3, 600, 605]
    assert "memory budget" in said[0]
    record = raw_record(filled, config, {"gpu": "fake"})
    assert record["torch"] == {"reserved": 550}
    assert record["experts_offered"] == 3


def test_where_the_driver_knows_no_processes_the_device_counts_and_where_it_says_nothing_nothing_is_said() -> None:
    config = options().engine_config(FAMILY)
    gpu = Readings(GpuReading(memory_bytes=7), GpuReading(memory_bytes=620))
    assert filled_with(gpu, FakeEngine(), config, []).nvml_bytes == 613
    row = memory_row(
        filled_with(Readings(GpuReading(), GpuReading()), FakeEngine(), config, []), family="x", codec=None
    )
    assert row["nvml_bytes"] is None
    assert "the driver counts nothing" in format_row(row)


def test_a_failed_request_ends_the_measurement_and_closes_the_engine() -> None:
    engine = FakeEngine(fails=True)
    with pytest.raises(DriverError, match="a request of expert-000 failed: no numbers"):
        filled_with(Readings(GpuReading()), engine, options().engine_config(FAMILY), [])
    assert engine.closed


def test_the_engine_must_hold_as_many_as_asked_and_as_many_as_fit_if_no_number_is_given() -> None:
    config = options(experts=16).engine_config(FAMILY)
    assert (len(config.experts), config.device.slots, config.device.model_buffers) == (16, 16, None)
    assert config.device.kind == "cuda"
    assert config.scheduler.max_context_tokens == 16
    most = options(experts=None).engine_config(FAMILY)
    assert (len(most.experts), most.device.slots) == (512, None)


def test_of_whole_models_the_base_is_one() -> None:
    config = options(experts=3, weights="full").engine_config(FAMILY)
    assert (len(config.experts), config.device.slots, config.device.model_buffers) == (2, None, 3)
    engine = FakeEngine()
    filled_with(Readings(GpuReading(), GpuReading()), engine, config, [])
    assert {r.expert for r in engine.requests} == {"expert-000", "expert-001", BASE}


def test_a_row_says_the_difference_in_per_cent() -> None:
    row = {"family": "m", "codec": None, "experts": 3, "planned_bytes": 50 * GIB, "nvml_bytes": 51 * GIB}
    assert format_row(row) == "3 of m (whole models): planned 50.00 GiB, NVML 51.00 GiB (+2.0%)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_tokens": 63}, "--kv-tokens must be a multiple of --max-rows, 4, and at least twice as many, got 63"),
        ({"kv_tokens": 4}, "at least twice as many, got 4"),
        ({"weights": "half"}, "--weights must be delta or full, got 'half'"),
        ({"dtype": "float32"}, "--dtype must be bfloat16 or float16, got 'float32'"),
        ({"chunk_tokens": 0}, "--chunk must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**changes)


def test_experts_are_a_number_or_as_many_as_fit() -> None:
    assert (parse_experts("16"), parse_experts("max")) == (16, None)
    for text in ("0", "many", "-1", "513"):
        with pytest.raises(UsageError, match="--experts must be from 1 to 512, or max"):
            parse_experts(text)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Engines that the command built, on a card that nothing is known of."""
    built: list[FakeEngine] = []

    def build(config: EngineConfig) -> FakeEngine:
        built.append(FakeEngine())
        return built[-1]

    monkeypatch.setattr(command, "check_device", lambda config: None)
    monkeypatch.setattr(command, "check_budget", lambda budget, index: None)
    monkeypatch.setattr(command, "build_engine", build)
    monkeypatch.setattr(command, "_read_torch", lambda index: {"reserved": 1})
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: Readings(GpuReading(), GpuReading(process_bytes=594)))
    return built


def test_the_command_prints_plan_and_difference_keeps_the_row_and_does_not_measure_it_again(
    engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "memory.json"
    line = ["memory", "--family", "mistral-7b", "--experts", "3", "--kv-tokens", "64", "--table", str(table)]
    assert run_command(line) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("memory budget")
    assert printed[-1].endswith("(-1.0%)")
    (row,) = json.loads(table.read_text())
    assert (row["experts"], row["planned_bytes"], row["nvml_bytes"]) == (3, 600, 594)
    record = json.loads((tmp_path / "memory.raw.jsonl").read_text())
    assert record["config"]["device"]["slots"] == 3
    assert record["plan"] == PLAN
    assert run_command(line) == 0
    assert capsys.readouterr().out == f"the row is in {table}\n"
    assert len(engines) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--kv-tokens", "128"], "tokens of keys and values 64 there and 128 here"),
        (["--dtype", "float16"], "dtype bfloat16 there and float16 here"),
        (["--embedding", "rtn:bits=2"], "embedding rtn:bits=4"),
        (["--memory-budget", "70GiB"], "memory budget 81604378624 there and 75161927680 here"),
        # how many fit, three, is known only once they do
        (["--experts", "max", "--dtype", "float16"], "dtype bfloat16 there and float16 here"),
    ],
)
def test_a_row_of_another_configuration_is_refused_and_kept(
    changed: list[str],
    message: str,
    engines: list[FakeEngine],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = tmp_path / "memory.json"
    line = ["memory", "--family", "mistral-7b", "--experts", "3", "--kv-tokens", "64", "--table", str(table)]
    assert run_command(line) == 0
    kept = table.read_bytes()
    capsys.readouterr()
    assert run_command([*line, *changed]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"harness: {table} has a row of family mistral-7b")
    assert error.endswith("give another file to --table\n")
    assert table.read_bytes() == kept
    assert len(engines) == (2 if "max" in changed else 1)


def test_the_published_row_is_complete_with_the_options_it_was_made_with(
    engines: list[FakeEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    published = Path(__file__).parents[2] / "reports" / "results" / "h100-80gb"
    for name in ("memory.json", "memory.raw.jsonl"):
        shutil.copy(published / name, tmp_path / name)
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: NullGpu("NVIDIA H100 80GB HBM3"))
    table = tmp_path / "memory.json"
    line = ["memory", "--family", "mistral-7b", "--experts", "16", "--kv-tokens", "32768", "--memory-budget", "76GiB"]
    assert run_command([*line, "--table", str(table)]) == 0
    assert capsys.readouterr().out == f"the row is in {table}\n"
    assert table.read_bytes() == (published / "memory.json").read_bytes()
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: NullGpu("NVIDIA H200"))
    assert run_command([*line, "--table", str(table)]) == 1
    assert "GPU NVIDIA H100 80GB HBM3 there and NVIDIA H200 here" in capsys.readouterr().err
    assert engines == []
