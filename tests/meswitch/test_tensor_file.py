"""Files of tensors: read back by the safetensors library as they were written, aligned, and in the planned order."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from meswitch.codecs.base import TensorSpec
from meswitch.errors import DeltaFormatError
from meswitch.tensor_file import PAD_PREFIX, TensorFileWriter, read_header, read_tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.uint8)


def write(path: Path, tensors: dict[str, torch.Tensor], alignment: int) -> TensorFileWriter:
    plan = {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    writer = TensorFileWriter(path, plan, alignment=alignment)
    writer.start()
    for name, tensor in tensors.items():
        writer.write(name, tensor)
    writer.finish()
    return writer


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=6, max_size=6),
    alignment=st.sampled_from([1, 16, 64]),
)
def test_written_tensors_are_read_back_by_the_library_and_by_us(
    shapes: list[list[int]], dtypes: list[torch.dtype], alignment: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    tensors = {
        f"t{i}": torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    write(path, tensors, alignment)
    stored = read_header(path, error=DeltaFormatError)
    library = load_file(path)
    assert {name for name in stored if not name.startswith(PAD_PREFIX)} == tensors.keys()
    for name, want in tensors.items():
        assert torch.equal(library[name], want)
        assert torch.equal(read_tensor(stored[name], error=DeltaFormatError), want)
        assert stored[name].start % alignment == 0


def test_tensors_must_come_in_the_planned_order_and_form(tmp_path: Path) -> None:
    plan = {"a": TensorSpec((2,), torch.float32), "b": TensorSpec((2,), torch.float32)}
    writer = TensorFileWriter(tmp_path / "x", plan)
    writer.start()
    with pytest.raises(ValueError, match="planned order, got b"):
        writer.write("b", torch.zeros(2))
    with pytest.raises(ValueError, match="written as planned"):
        writer.write("a", torch.zeros(3))
    writer.write("a", torch.zeros(2))
    with pytest.raises(ValueError, match="1 are missing"):
        writer.finish()
    writer.close()


def test_resumed_file_equals_one_written_at_once(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3), "b": torch.arange(5).half(), "c": torch.arange(7).byte(), "d": torch.arange(2)}
    tensors = {name: t.int() if t.dtype == torch.int64 else t for name, t in tensors.items()}
    write(tmp_path / "whole", tensors, 16)
    plan = {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    for done in range(len(tensors) + 1):
        # longer than what is kept, as after a write that was cut off
        (tmp_path / "part").write_bytes((tmp_path / "whole").read_bytes()[:-1] + b"x")
        writer = TensorFileWriter(tmp_path / "part", plan, alignment=16)
        writer.resume(done)
        for name in list(tensors)[done:]:
            writer.write(name, tensors[name])
        writer.finish()
        if done < len(tensors):
            assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_damaged_header_is_refused_by_the_files_name(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(DeltaFormatError, match=r"bad\.safetensors"):
        read_header(path, error=DeltaFormatError)
