"""The identity of a base: the same for the same weights, another for any other."""

import json
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file

from meswitch.checkpoint import Checkpoint
from meswitch.identity import base_identity

TENSORS = {"b.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, -2.0])}


def save(root: Path, tensors: dict[str, torch.Tensor], *, shards: int = 1) -> Path:
    root.mkdir()
    (root / "config.json").write_text("{}")
    names = list(tensors)
    files = ["model.safetensors"] if shards == 1 else [f"{i}.safetensors" for i in range(shards)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i :: len(files)]}, root / file)
    if shards > 1:
        weight_map = {name: files[i % shards] for i, name in enumerate(names)}
        (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return root


def test_identity_is_the_hash_of_names_dtypes_shapes_and_bytes_in_order_of_name(tmp_path: Path) -> None:
    hasher = blake3()
    hasher.update(b'["a.bias", "F32", [2]]' + TENSORS["a.bias"].numpy().tobytes())
    hasher.update(b'["b.weight", "F32", [2, 3]]' + TENSORS["b.weight"].numpy().tobytes())
    assert base_identity(save(tmp_path / "x", TENSORS)) == f"blake3:{hasher.hexdigest()}"


def test_sharding_and_place_do_not_matter(tmp_path: Path) -> None:
    assert base_identity(save(tmp_path / "x", TENSORS)) == base_identity(save(tmp_path / "y", TENSORS, shards=2))


@pytest.mark.parametrize(
    "other",
    [
        {**TENSORS, "a.bias": torch.tensor([1.0, -2.0000002])},
        {**TENSORS, "a.bias": torch.tensor([[1.0, -2.0]])},
        {"b.weight": TENSORS["b.weight"], "a.weight": TENSORS["a.bias"]},
        {**TENSORS, "c": torch.zeros(1)},
        {name: t.half() for name, t in TENSORS.items()},
    ],
    ids=["value", "shape", "name", "more", "dtype"],
)
def test_any_difference_is_another_identity(other: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert base_identity(save(tmp_path / "x", TENSORS)) != base_identity(save(tmp_path / "y", other))


def test_bf16_and_fp16_copies_of_one_base_are_told_apart_although_their_zeros_are_the_same_bytes(
    tmp_path: Path,
) -> None:
    zeros = {"a": torch.zeros(4, 4)}
    copies = [save(tmp_path / str(d), {"a": zeros["a"].to(d)}) for d in (torch.bfloat16, torch.float16)]
    assert base_identity(copies[0]) != base_identity(copies[1])


def test_second_call_reads_no_tensor_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: (reads.append(name), read(self, name))[1])
    root = save(tmp_path / "x", TENSORS)
    first = base_identity(root)
    assert reads == ["a.bias", "b.weight"]
    assert base_identity(root) == first
    assert len(reads) == 2
    save_file({**TENSORS, "a.bias": torch.tensor([1.0, 3.0])}, root / "model.safetensors")
    assert base_identity(root) != first
    assert len(reads) == 4


def test_home_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a directory")
    root = save(tmp_path / "x", TENSORS)
    with_cache = base_identity(root)
    monkeypatch.setenv("MESWITCH_HOME", str(tmp_path / "file"))
    assert base_identity(root) == with_cache
