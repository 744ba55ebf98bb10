"""Safetensors files, read and written one tensor at a time.

Read with plain reads rather than through a memory map: what is held is what was asked for, and a truncated file is
an error when it is opened, not a bus error when its last page is touched.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from meswitch.codecs.base import TensorSpec
from meswitch.errors import MeswitchError

__all__ = [
    "ALIGNMENT_BYTES",
    "PAD_PREFIX",
    "StoredTensor",
    "TensorFileWriter",
    "dtype_from_name",
    "dtype_name",
    "read_header",
    "read_tensor",
    "tensor_bytes",
]

ALIGNMENT_BYTES = 16
"""Where tensors of a delta start: a device copy of the whole file leaves each of them usable as it is."""

PAD_PREFIX = "~pad"
"""Names of filler tensors: the format forbids gaps, so a gap is a tensor."""

MAX_HEADER_BYTES = 100_000_000

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: `start` is its offset in the file, in bytes."""

    path: Path
    spec: TensorSpec
    start: int


def dtype_name(dtype: torch.dtype) -> str:
    """The format's name of a dtype, such as `BF16`."""
    return NAMES[dtype]


def dtype_from_name(name: str) -> torch.dtype:
    """The dtype of one of the format's names."""
    return DTYPES[name]


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes in row-major order, without a copy where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    view: memoryview = flat.numpy().data
    return view


def read_header(path: Path, *, error: type[MeswitchError]) -> dict[str, StoredTensor]:
    """The tensors of a file by name, in file order.

    Raises:
        error: the file is truncated, damaged, or holds a dtype that is not handled.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise error(f"{path} is not a safetensors file or is truncated: its header claims {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {name: _stored(path, name, entry, 8 + length, error) for name, entry in header.items()}
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror or cause}") from cause
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise error(f"{path} is damaged: its header is not that of a safetensors file") from cause
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].spec.nbytes)))
    _check_extent(path, ordered, 8 + length, size, error)
    return ordered


def _stored(
    path: Path, name: str, entry: Mapping[str, object], origin: int, error: type[MeswitchError]
) -> StoredTensor:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES:
        raise error(f"{path}: tensor {name} has dtype {dtype}, which is not handled; convert the checkpoint first")
    assert isinstance(dtype, str)
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError(name)
    if not all(isinstance(x, int) and x >= 0 for x in (*shape, *offsets)):
        raise ValueError(name)
    spec = TensorSpec(tuple(shape), DTYPES[dtype])
    start, end = offsets
    if end - start != spec.nbytes:
        raise ValueError(name)
    return StoredTensor(path, spec, origin + start)


def _check_extent(
    path: Path, tensors: Mapping[str, StoredTensor], origin: int, size: int, error: type[MeswitchError]
) -> None:
    end = origin
    for name, tensor in tensors.items():
        if tensor.start != end:
            raise error(f"{path} is damaged: tensor {name} does not start where the one before it ends")
        end += tensor.spec.nbytes
    if size != end:
        raise error(f"{path} is damaged or truncated: {end} bytes expected, {size} found; copy or download it again")


def read_tensor(stored: StoredTensor, *, error: type[MeswitchError]) -> torch.Tensor:
    """The tensor, freshly allocated on the CPU.

    Raises:
        error: the file shrank or vanished since its header was read.
    """
    tensor = torch.empty(stored.spec.shape, dtype=stored.spec.dtype)
    view = tensor_bytes(tensor)
    try:
        with stored.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            done = 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise error(f"{stored.path} became shorter while it was read; copy or download it again")
                done += count
    except OSError as cause:
        raise error(f"{stored.path} cannot be read: {cause.strerror or cause}") from cause
    return tensor


class TensorFileWriter:
    """Writes the planned tensors of one file, in the plan's order, each as soon as it is known.

    Args:
        path: the file; it is created, or continued after `resume_after`.
        plan: every tensor that will be written, in order.
        alignment: of each tensor's offset within the data, in bytes; gaps become filler tensors.
    """

    def __init__(self, path: Path, plan: Mapping[str, TensorSpec], *, alignment: int = 1) -> None:
        self.path = path
        self._header, self._places, self._pads = _plan_file(path, plan, alignment)
        self._names = list(plan)
        self._next = 0
        self._file: BinaryIO | None = None

    @property
    def header(self) -> bytes:
        """What the file starts with."""
        return self._header

    def extent(self, names: list[str]) -> tuple[int, int]:
        """Offsets in the file of the first byte of the first of `names` and past the last byte of the last."""
        first, last = self._places[names[0]], self._places[names[-1]]
        return first.start - self._pads[names[0]], last.start + last.spec.nbytes

    def start(self) -> None:
        """Create the file and write its header."""
        self._file = self.path.open("wb")
        self._file.write(self._header)

    def resume(self, done: int) -> None:
        """Continue an existing file after its first `done` tensors; what follows them is cut off."""
        end = self.extent(self._names[:done])[1] if done else len(self._header)
        self._file = self.path.open("r+b")
        self._file.truncate(end)
        self._file.seek(end)
        self._next = done

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Append `tensor`, which must be the next one planned."""
        place = self._places[name]
        if self._file is None or self._next >= len(self._names) or self._names[self._next] != name:
            raise ValueError(f"tensors must be written in the planned order, got {name}")
        found = TensorSpec(tuple(tensor.shape), tensor.dtype)
        if found != place.spec:
            raise ValueError(f"{name} must be written as planned, {place.spec}, got {found}")
        self._file.write(bytes(self._pads[name]))
        self._file.write(tensor_bytes(tensor))
        self._next += 1

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Sync and close a complete file."""
        if self._next != len(self._names):
            raise ValueError(f"all planned tensors must be written, {len(self._names) - self._next} are missing")
        self.sync()
        self.close()

    def close(self) -> None:
        """Close the file, complete or not. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _plan_file(
    path: Path, plan: Mapping[str, TensorSpec], alignment: int
) -> tuple[bytes, dict[str, StoredTensor], dict[str, int]]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    relative: dict[str, tuple[TensorSpec, int]] = {}
    pads: dict[str, int] = {}
    end = 0
    for name, spec in plan.items():
        pads[name] = -end % alignment
        if pads[name]:
            header[f"{PAD_PREFIX}{end}"] = _entry(TensorSpec((pads[name],), torch.uint8), end)
            end += pads[name]
        header[name] = _entry(spec, end)
        relative[name] = (spec, end)
        end += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    # spaces after the header let the data start aligned too
    text += b" " * (-(8 + len(text)) % max(alignment, 8))
    origin = 8 + len(text)
    places = {name: StoredTensor(path, spec, origin + start) for name, (spec, start) in relative.items()}
    return len(text).to_bytes(8, "little") + text, places, pads


def _entry(spec: TensorSpec, start: int) -> dict[str, object]:
    offsets = [start, start + spec.nbytes]
    return {"dtype": NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
