"""What compression takes: lines through measured depths, watched processes, and one small shape from end to end."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from harness.cli import run_command
from harness.compression.measure import CompressionOptions, line, phases_sentence, projection
from harness.compression.synthetic import write_pair
from harness.compression.watch import read_anonymous, watch
from harness.errors import HarnessError, UsageError
from meswitch.checkpoint import Checkpoint
from tests.meswitch.checkpoints import tiny_config

ROW = {
    "family": "f",
    "layers": 2,
    "device": "cpu",
    "threads": 2,
    "linear": "rtn",
    "texts": 0,
    "tokens": 0,
    "kind": "measured",
    "seconds": 10.0,
    "cpu_seconds": 20.0,
    "seconds_per_layer": None,
    "peak_anonymous_bytes": 100,
    "limit_bytes": 400,
    "largest_tensor_bytes": 50,
    "model_bytes": 1000,
    "expert_bytes": 300,
}


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    root = tmp_path / "shape"
    tiny_config("mistral", tie_word_embeddings=False, head_dim=16).save_pretrained(root)
    return root


def test_a_line_goes_through_two_points() -> None:
    # 3 + 2x
    assert line([1, 4], [5, 11]) == (3, 2)
    with pytest.raises(ValueError, match="a line needs two different depths, got 4 only"):
        line([4, 4], [1, 2])


def test_a_projection_says_so_and_projects_no_memory() -> None:
    deeper = {**ROW, "layers": 4, "seconds": 16.0, "cpu_seconds": 30.0, "model_bytes": 1600, "expert_bytes": 500}
    found = projection([ROW, deeper], 32)
    # 3 s a layer, 4 s apart from them
    assert (found["kind"], found["layers"], found["seconds"], found["seconds_per_layer"]) == ("projection", 32, 100, 3)
    assert (found["cpu_seconds"], found["model_bytes"], found["expert_bytes"]) == (170, 10000, 3300)
    assert found["peak_anonymous_bytes"] is None


def test_anonymous_memory_is_what_the_status_says(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmRSS:\t  900 kB\nRssAnon:\t     123 kB\nRssFile:\t 777 kB\n")
    assert read_anonymous(tmp_path / "status") == 123 * 1024
    (tmp_path / "other").write_text("VmRSS:\t  900 kB\n")
    assert read_anonymous(tmp_path / "other") is None
    assert read_anonymous(tmp_path / "none") is None


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by Linux")
def test_a_process_is_watched_to_its_end() -> None:
    script = "b = bytearray(b'x' * (64 << 20)); import time; time.sleep(0.3); print('done')"
    found = watch([sys.executable, "-c", script], os.environ)
    assert found.output == "done\n"
    assert 64 << 20 <= found.peak_anonymous_bytes < 200 << 20
    assert found.seconds >= 0.3
    assert found.samples > 1


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by Linux")
def test_a_process_that_fails_is_reported_with_its_last_line() -> None:
    with pytest.raises(HarnessError, match="exit code 3: bad"):
        watch([sys.executable, "-c", "import sys; print('bad', file=sys.stderr); sys.exit(3)"], os.environ)


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by Linux")
def test_a_process_is_killed_after_its_time() -> None:
    with pytest.raises(HarnessError, match=r"killed after the 0.2 s that --time-limit allows"):
        watch([sys.executable, "-c", "while True: pass"], os.environ, limit_s=0.2)


def test_models_without_room_on_the_disk_are_refused_before_they_are_written(
    shape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1024, 1024))
    with pytest.raises(UsageError, match=r"base, expert and delta need .* has 1\.0 KiB free; take fewer --layers"):
        write_pair(tmp_path / "pair", shape, layers=3, seed=1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_compression_says_where_its_seconds_went() -> None:
    phases = {"identify": 4.0, "check": 1.0, "workers_read": 2.0, "workers_compress": 6.5, "write": 0.5, "total": 12.0}
    said = phases_sentence(15.0, phases)
    # 15 less 4 of reading; 15 less 12 before anything began
    assert said == (
        "15.0 s, 11.0 s after the first reading of the disk; in turn: start 3.0, identify 4.0, check 1.0, write 0.5; "
        "threads meanwhile: read 2.0, compress 6.5"
    )


def test_a_synthetic_expert_is_a_checkpoint_near_its_base(shape: Path, tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "pair", shape, layers=3, seed=1)
    base, expert = Checkpoint(pair.base), Checkpoint(pair.expert)
    assert sum(name.endswith("q_proj.weight") for name in base.names) == 3
    assert pair.model_bytes == expert.nbytes == base.nbytes
    # q: four heads of 16 rows, of 32 numbers in bfloat16
    assert pair.largest_tensor_bytes == 2 * 64 * 32
    name = "model.layers.2.mlp.up_proj.weight"
    ours, theirs = base.read(name).float(), expert.read(name).float()
    share = float((theirs - ours).norm() / ours.norm())
    # 2 %, and what rounding to bfloat16 adds
    assert 0.015 < share < 0.03
    again = write_pair(tmp_path / "again", shape, layers=3, seed=1)
    assert torch.equal(Checkpoint(again.expert).read(name), expert.read(name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "--layers"),
        ({"layers": (2, 2)}, "--layers"),
        ({"layers": (0,)}, "--layers"),
        ({"threads": 0}, "--threads"),
        ({"texts": 3}, "--texts and --tokens"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, object], message: str) -> None:
    options = {"family": "mistral-7b", "layers": (2,), "linear": "rtn", "embedding": "rtn", "head": "rtn", **changes}
    with pytest.raises(UsageError, match=message):
        CompressionOptions(**options)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    shape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ["compression", "--family", str(shape), "--layers", "1", "--device", "cuda", "--scratch"]
    assert run_command([*command, str(tmp_path / "scratch")]) == 1
    assert "device cuda needs an NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "scratch").exists()


@pytest.mark.slow
def test_two_depths_are_measured_and_a_third_projected(shape: Path, tmp_path: Path) -> None:
    command = ["compression", "--family", str(shape), "--linear", "salient:bits=2,channels=4", "--texts", "2"]
    command += ["--tokens", "5", "--layers", "1", "--layers", "3", "--table", str(tmp_path / "rows.json")]
    scratch = tmp_path / "not" / "there yet"
    command += ["--scratch", str(scratch)]
    assert run_command(command) == 0
    assert not list(scratch.iterdir())
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["layers"], row["kind"]) for row in rows] == [(1, "measured"), (3, "measured"), (2, "projection")]
    assert all(row["peak_anonymous_bytes"] > 50 << 20 for row in rows[:2])
    assert all(row["peak_anonymous_bytes"] < row["limit_bytes"] for row in rows[:2])
    raw = [json.loads(text) for text in (tmp_path / "rows.raw.jsonl").read_text().splitlines()]
    assert set(raw[0]["phases"]) >= {"identify", "check", "calibrate", "workers_compress", "write", "finish", "total"}
    assert 0 < raw[0]["phases"]["total"] < raw[0]["watched"]["seconds"]
    assert raw[0]["nbytes"]["whole"] == rows[0]["expert_bytes"]
    assert raw[2]["projected_from"] == [1, 3]
    # nothing is measured twice
    assert run_command(command) == 0
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
