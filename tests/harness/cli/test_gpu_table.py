"""Every command that needs a GPU says the same of a missing one, at once, and before anything is written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import gpu_table, run_command
from harness.errors import UsageError
from harness.telemetry import NullGpu
from tests.harness.fake_gpu import FakeGpu

PUBLISHED = Path(__file__).parents[3] / "reports" / "results" / "h100-80gb"
NO_GPU = "harness: device cuda needs an NVIDIA GPU and its driver, and NVML sees none; check nvidia-smi"

COMMANDS = [
    ["compression", "--family", "mistral-7b", "--layers", "1", "--device", "cuda", "--table", "t.json"],
    ["decode", "--family", "mistral-7b", "--table", "t.json"],
    ["memory", "--family", "mistral-7b", "--table", "t.json"],
    ["parity", "--table", "t.json"],
    ["quality", "smollm2", "--device", "cuda", "--output", "quality"],
    ["quality", "smollm2", "--generate", "--task", "mbpp", "--data", ".", "--device", "cuda", "--output", "quality"],
    ["prefill", "--family", "mistral-7b", "--table", "t.json"],
    ["run", "--trace", "mixed.jsonl", "--device", "cuda", "--runs-dir", "runs"],
    ["sweep", "--preset", "headline", "--out", "sweep"],
    ["switching", "--out", "switching"],
]

SCRIPT = f"""
import sys
from importlib import import_module
from harness.cli import run_command
from harness.telemetry import NullGpu

for name in ("cli.gpu_table", "cli.parity", "cli.run", "cli.sweep", "cli.switching", "telemetry.gpu"):
    import_module(f"harness.{{name}}").open_gpu = lambda index=0: NullGpu()
for command in {COMMANDS}:
    print(command[0], run_command(command), "torch" in sys.modules)
"""


def test_without_a_gpu_every_command_says_the_same_line_before_torch_is_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{command[0]} 1 False" for command in COMMANDS]
    assert done.stderr.splitlines() == [NO_GPU] * len(COMMANDS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["decode", "memory", "prefill"])
def test_a_table_with_all_rows_needs_no_gpu_and_one_that_lacks_some_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: NullGpu())
    for path in PUBLISHED.glob(f"{name}.*"):
        shutil.copy(path, tmp_path)
    line = [name, "--family", "mistral-7b", "--table", str(tmp_path / f"{name}.json")]
    assert run_command(line) == 0
    assert f"in {tmp_path / name}.json" in capsys.readouterr().out
    lacking = {"decode": ["--context", "100"], "prefill": ["--start", "7"], "memory": ["--experts", "15"]}[name]
    assert run_command([*line, *lacking]) == 1
    assert capsys.readouterr().err == f"{NO_GPU}\n"


def test_a_gpu_that_is_there_is_closed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    gpu = FakeGpu()
    monkeypatch.setattr(gpu, "close", lambda: closed.append(True))
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: gpu)
    with gpu_table.gpu_for_table(0, tmp_path / "t.json") as found:
        assert found is gpu
        assert not closed
    assert closed == [True]


def test_a_table_that_could_have_no_row_asks_for_the_gpu_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_table, "open_gpu", lambda index: NullGpu())
    path = tmp_path / "t.json"
    for table in (None, path):
        with pytest.raises(UsageError, match="NVML sees none; check"), gpu_table.gpu_for_table(0, table):
            pytest.fail("a command began")
    path.touch()
    with gpu_table.gpu_for_table(0, path) as gpu:
        assert gpu.description == "no GPU"
    # more than rows is asked for, which no table has
    with pytest.raises(UsageError, match="NVML sees none"), gpu_table.gpu_for_table(0, path, may_suffice=False):
        pytest.fail("a command began")
