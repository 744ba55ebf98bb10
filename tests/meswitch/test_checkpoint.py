"""Reading checkpoints: the same tensors as the safetensors library, and damage named where it is."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from meswitch.checkpoint import Checkpoint
from meswitch.errors import CheckpointError, MissingShardError

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b.weight": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "c.bias": torch.tensor(2.5, dtype=torch.float16),
    "d.empty": torch.empty(0, 4),
}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    names = list(TENSORS)
    shards = {"one.safetensors": names[:2], "two.safetensors": names[2:]}
    for file, members in shards.items():
        save_file({name: TENSORS[name] for name in members}, tmp_path / file)
    weight_map = {name: file for file, members in shards.items() for name in members}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_every_tensor_is_read_as_it_was_saved(kind: str, request: pytest.FixtureRequest) -> None:
    checkpoint = Checkpoint(request.getfixturevalue(kind))
    assert checkpoint.names == tuple(TENSORS)
    for name, want in TENSORS.items():
        got = checkpoint.read(name)
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
        assert (checkpoint.spec(name).shape, checkpoint.spec(name).dtype) == (tuple(want.shape), want.dtype)
    assert checkpoint.nbytes == 12 * 4 + 6 * 2 + 2


def test_names_on_disk_are_in_the_order_of_their_offsets(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    # safetensors itself puts the widest dtype first
    tensors = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2), "c": torch.ones(2, dtype=torch.float64)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert Checkpoint(tmp_path).names_on_disk == ("c", "b", "a")


def test_tensor_that_is_read_belongs_to_the_caller(single: Path) -> None:
    Checkpoint(single).read("a.weight").zero_()
    assert torch.equal(Checkpoint(single).read("a.weight"), TENSORS["a.weight"])


def test_tensor_that_nobody_has_is_named(single: Path) -> None:
    with pytest.raises(MissingShardError, match=r"e\.weight"):
        Checkpoint(single).read("e.weight")


def test_shard_that_the_index_names_but_is_not_there_is_named(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    with pytest.raises(MissingShardError, match=r"two\.safetensors"):
        Checkpoint(sharded)


def test_tensor_that_its_shard_does_not_hold_is_named(sharded: Path) -> None:
    save_file({"a.weight": TENSORS["a.weight"]}, sharded / "one.safetensors")
    with pytest.raises(MissingShardError, match=r"one\.safetensors.*b\.weight"):
        Checkpoint(sharded)


def test_index_may_not_point_outside_its_directory(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(CheckpointError, match="its own directory"):
        Checkpoint(sharded)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_file_is_refused_when_opened(keep: int, single: Path) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Checkpoint(single)


def test_file_with_bytes_behind_its_tensors_is_refused(single: Path) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        Checkpoint(single)


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_malformed_index_is_refused(index: str, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        Checkpoint(sharded)


def test_pickled_weights_are_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="save it again as safetensors"):
        Checkpoint(tmp_path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be a directory on this machine"):
        Checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        Checkpoint(tmp_path)
