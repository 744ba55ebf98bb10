"""Compression that is killed, interrupted or runs out of disk: the old expert or the new one, never half of one."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meswitch.compress import CompressConfig, compress_expert
from meswitch.errors import StorageError
from meswitch.format import load_expert, open_delta
from meswitch.format.staging import partial_path
from meswitch.merge import merge
from meswitch.tensor_file import TensorFileWriter
from tests.meswitch.checkpoints import fine_tune, save_model, tiny_config

# one process for all points, because importing takes longest: each point is a child that dies by SIGKILL at the
# n-th call of one function; prints the signal that ended each
KILLED = """
import os, signal, sys
from pathlib import Path
import transformers.models.llama.modeling_llama
from transformers import AutoConfig, AutoModelForCausalLM
from meswitch.compress import CompressConfig, compress_expert
from meswitch.format import staging
from meswitch.format.writer import DeltaWriter
from meswitch.tensor_file import TensorFileWriter

OWNERS = {
    "fsync": (os, "fsync"),
    "tensor": (TensorFileWriter, "write"),
    "parameter": (DeltaWriter, "write"),
    "finish": (DeltaWriter, "finish"),
    "publish": (staging, "publish"),
    "exchange": (staging, "_exchange"),
    "after": (staging, "remove_directory"),
}

def die(config, where, number):
    owner, name = OWNERS[where]
    original, calls = getattr(owner, name), 0

    def fatal(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, fatal)
    compress_expert(config)

base, expert, root, *points = sys.argv[1:]
for point in points:
    where, number = point.split(":")
    output = Path(root) / where / "delta"
    config = CompressConfig(
        base=Path(base), expert=Path(expert), output=output, name="new", linear="rtn:bits=4", replace=True
    )
    child = os.fork()
    if child == 0:
        die(config, where, int(number))
        os._exit(0)
    print(where, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

POINTS = ("fsync:3", "tensor:9", "parameter:4", "finish:1", "publish:1", "exchange:1", "after:1")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base", tiny_config(num_hidden_layers=1))
    return base, fine_tune(base, root / "expert")


def config_for(models: tuple[Path, Path], output: Path, **options: Any) -> CompressConfig:
    base, expert = models
    settings = {"name": "new", "linear": "rtn:bits=4", "replace": True, **options}
    return CompressConfig(base=base, expert=expert, output=output, **settings)


def test_writer_that_is_killed_leaves_the_old_expert_or_the_new_one(models: tuple[Path, Path], tmp_path: Path) -> None:
    places = {point.split(":")[0]: tmp_path / point.split(":")[0] / "delta" for point in POINTS}
    compress_expert(config_for(models, tmp_path / "old", name="old", linear="rtn:bits=2"))
    for place in places.values():
        shutil.copytree(tmp_path / "old", place)
    command = [sys.executable, "-c", KILLED, *map(str, models), str(tmp_path), *POINTS]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.split()
    assert ended == [word for where in places for word in (where, str(-signal.SIGKILL))]
    for where, place in places.items():
        # only the last point comes after the exchange of the two directories
        assert open_delta(place).manifest.name == ("new" if where == "after" else "old"), where
        load_expert(place, base_identity=None)
        # the next one finishes the work and clears up
        assert compress_expert(config_for(models, place)).name == "new"
        load_expert(place, base_identity=None)
        assert [p.name for p in place.parent.iterdir()] == ["delta"], where


def test_interrupted_compression_goes_on_where_it_stopped(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, written = tmp_path / "delta", []
    write = TensorFileWriter.write

    def interrupted(self: TensorFileWriter, name: str, tensor: Any) -> None:
        if len(written) == 11:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(TensorFileWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compress_expert(config_for(models, output))
    assert not output.exists()
    again: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(TensorFileWriter, "write", lambda self, name, t: (again.append(name), write(self, name, t))[1])
        resumed = compress_expert(config_for(models, output))
    # codes and step of each of five matrices were complete, the eleventh tensor was not journalled
    assert written[10] == again[0]
    assert not set(written[:10]) & set(again)
    fresh = compress_expert(config_for(models, tmp_path / "fresh"))
    assert resumed.files["delta.safetensors"] == fresh.files["delta.safetensors"]
    assert resumed.relative_delta_norm == fresh.relative_delta_norm


@pytest.mark.parametrize("damage", ["bytes", "journal", "other codec"])
def test_unfinished_work_that_does_not_fit_is_written_again(
    damage: str, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, count = tmp_path / "delta", 0
    write = TensorFileWriter.write

    def interrupted(self: TensorFileWriter, name: str, tensor: Any) -> None:
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        write(self, name, tensor)

    with monkeypatch.context() as patch:
        patch.setattr(TensorFileWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compress_expert(
                config_for(models, output, linear="rtn:bits=2" if damage == "other codec" else "rtn:bits=4")
            )
    partial = partial_path(output)
    if damage == "bytes":
        content = bytearray((partial / "delta.safetensors").read_bytes())
        # in the first tensor, which the journal vouches for
        content[8 + int.from_bytes(content[:8], "little")] ^= 1
        (partial / "delta.safetensors").write_bytes(content)
    if damage == "journal":
        journal = (partial / "journal.jsonl").read_text()
        (partial / "journal.jsonl").write_text(journal[:-20])
    resumed = compress_expert(config_for(models, output))
    fresh = compress_expert(config_for(models, tmp_path / "fresh"))
    assert resumed.files["delta.safetensors"] == fresh.files["delta.safetensors"]
    load_expert(output, base_identity=None)


@pytest.mark.parametrize("call", [1, 2, 5, 20])
@pytest.mark.parametrize("old", [True, False])
def test_full_disk_is_one_error_and_leaves_what_was_there(
    call: int, old: bool, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "delta"
    if old:
        compress_expert(config_for(models, output, name="old"))
    calls, fsync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"No space left on device; free some space"):
            compress_expert(config_for(models, output))
    assert [p.name for p in tmp_path.iterdir()] == (["delta"] if old else [])
    if old:
        assert load_expert(output, base_identity=None).name == "old"


def test_disk_that_fills_while_merging_leaves_nothing(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress_expert(config_for(models, tmp_path / "delta"))
    write, calls = TensorFileWriter.write, 0

    def full(self: TensorFileWriter, name: str, tensor: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, name, tensor)

    monkeypatch.setattr(TensorFileWriter, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        merge(models[0], tmp_path / "delta", tmp_path / "merged")
    assert [p.name for p in tmp_path.iterdir()] == ["delta"]
