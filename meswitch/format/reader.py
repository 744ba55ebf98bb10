"""Reads a delta directory, and refuses whatever is not exactly what was written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from blake3 import blake3

from meswitch.codecs import get_codec
from meswitch.codecs.base import CompressedDelta, TensorSpec
from meswitch.delta import ExpertDelta
from meswitch.errors import BaseMismatchError, CodecOptionError, DeltaFormatError
from meswitch.format.manifest import MANIFEST_FILE, SCHEMA, FileRecord, Manifest, ParameterRecord, decode_manifest
from meswitch.format.staging import recover
from meswitch.format.writer import TENSOR_FILE, TOKENIZER_DIR, hash_file
from meswitch.plan import EXACT_LOCAL, ROWS_LOCAL, tensor_name
from meswitch.tensor_file import StoredTensor, read_header, tensor_bytes

__all__ = ["DeltaDirectory", "load_expert", "open_delta"]

CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaDirectory:
    """A delta on the disk whose manifest has been checked.

    Attributes:
        root: the directory.
        manifest: what it says of itself.
    """

    root: Path
    manifest: Manifest

    @property
    def nbytes(self) -> int:
        """Bytes of the expert in memory: `ExpertDelta.nbytes` of what `load_expert` returns."""
        return self.manifest.nbytes.whole

    @property
    def read_bytes(self) -> int:
        """Bytes that `load_expert` reads: the file of tensors, header and padding included."""
        return self.manifest.files[TENSOR_FILE].nbytes

    @property
    def tensor_file(self) -> Path:
        """The file of all tensors."""
        return self.root / TENSOR_FILE

    @property
    def tokenizer_dir(self) -> Path:
        """The expert's config, tokenizer, chat template and generation config, as transformers loads them."""
        return self.root / TOKENIZER_DIR

    def check_base(self, identity: str) -> None:
        """Nothing, if the delta was made from the base of that identity.

        Raises:
            BaseMismatchError: it was made from another one.
        """
        made_from = self.manifest.base
        if made_from.identity != identity:
            raise BaseMismatchError(
                f"expert {self.manifest.name} was made from base {made_from.name} ({_short(made_from.identity)}), "
                f"got base {_short(identity)}; use its own base or compress it again: {self.root}"
            )

    def check_companions(self) -> None:
        """Nothing, if all files but that of the tensors, which `load_expert` checks, are as they were written.

        Raises:
            DeltaFormatError: one is damaged.
        """
        for name in self.manifest.files.keys() - {TENSOR_FILE}:
            _check_content(self.root / name, self.manifest.files[name])


def open_delta(path: Path, *, verify: bool = True) -> DeltaDirectory:
    """The delta directory at `path`.

    Args:
        path: the directory.
        verify: check every file's BLAKE3; without it only names, sizes and the manifest's own checksum are.

    Raises:
        DeltaFormatError: the directory is not a delta of this schema, or a file is missing, added to or damaged.
    """
    try:
        recover(path)
        content = (path / MANIFEST_FILE).read_bytes()
    except OSError as cause:
        reason = "is not a directory" if not path.is_dir() else f"has no readable {MANIFEST_FILE}"
        raise DeltaFormatError(f"{path} {reason}: a delta of schema {SCHEMA} is needed") from cause
    manifest = decode_manifest(content, path / MANIFEST_FILE)
    if TENSOR_FILE not in manifest.files:
        raise DeltaFormatError(f"{path / MANIFEST_FILE} must list {TENSOR_FILE}")
    for name, expected in manifest.files.items():
        _check_file(path, name, expected)
        if verify:
            _check_content(path / name, expected)
    _check_nothing_added(path, manifest)
    return DeltaDirectory(root=path, manifest=manifest)


def load_expert(path: Path, *, base_identity: str | None, verify: bool = True) -> ExpertDelta:
    """The expert in the directory `path`, read into one arena in memory.

    Args:
        path: the delta directory.
        base_identity: of the base that it will be added to; `None` leaves that unchecked.
        verify: check the checksum of what was read.

    Raises:
        BaseMismatchError: the delta was made from another base.
        DeltaFormatError: the directory is damaged.
        UnknownCodecError: a codec of it is not installed.
    """
    directory = open_delta(path, verify=False)
    manifest = directory.manifest
    if base_identity is not None:
        directory.check_base(base_identity)
    stored = read_header(directory.tensor_file, error=DeltaFormatError)
    arena = _read_arena(directory, verify=verify)
    tensors = {name: _view(arena, entry) for name, entry in stored.items()}
    try:
        return _assemble(manifest, tensors)
    except (KeyError, CodecOptionError) as cause:
        raise DeltaFormatError(f"{directory.tensor_file} does not hold what its manifest lists: {cause}") from cause


def _check_file(root: Path, name: str, expected: FileRecord) -> None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise DeltaFormatError(f"{root / MANIFEST_FILE} must list files inside its directory, got {name!r}")
    path = root / name
    if not path.is_file():
        raise DeltaFormatError(f"{path} is missing; copy or compress the expert again")
    found = path.stat().st_size
    if found != expected.nbytes:
        raise DeltaFormatError(f"{path} must have {expected.nbytes} bytes, got {found}; copy or compress it again")


def _check_content(path: Path, expected: FileRecord) -> None:
    try:
        found = hash_file(path)
    except OSError as cause:
        raise DeltaFormatError(f"{path} cannot be read: {cause.strerror or cause}") from cause
    if found != expected:
        raise _damaged(path)


def _check_nothing_added(root: Path, manifest: Manifest) -> None:
    # transformers reads whatever lies there: a template that nobody vouches for would change every prompt
    for path in sorted((root / TOKENIZER_DIR).rglob("*")):
        if not path.is_dir() and path.relative_to(root).as_posix() not in manifest.files:
            raise DeltaFormatError(f"{path} is not listed in {MANIFEST_FILE}; remove it or copy the expert again")


def _damaged(path: Path) -> DeltaFormatError:
    return DeltaFormatError(f"{path} is damaged: its BLAKE3 is not the manifest's; copy or compress the expert again")


def _read_arena(directory: DeltaDirectory, *, verify: bool) -> torch.Tensor:
    """The whole file as bytes `[n]` uint8, hashed while it is read."""
    path = directory.tensor_file
    arena = torch.empty(directory.read_bytes, dtype=torch.uint8)
    view, done = tensor_bytes(arena), 0
    hasher = blake3(max_threads=blake3.AUTO)
    try:
        with path.open("rb", buffering=0) as file:
            while done < len(view):
                count = file.readinto(view[done : done + CHUNK_BYTES])
                if not count:
                    raise DeltaFormatError(f"{path} became shorter while it was read")
                if verify:
                    hasher.update(view[done : done + count])
                done += count
    except OSError as cause:
        raise DeltaFormatError(f"{path} cannot be read: {cause.strerror or cause}") from cause
    if verify and hasher.hexdigest() != directory.manifest.files[TENSOR_FILE].blake3:
        raise _damaged(path)
    return arena


def _view(arena: torch.Tensor, entry: StoredTensor) -> torch.Tensor:
    piece = arena[entry.start : entry.start + entry.spec.nbytes]
    return piece.view(entry.spec.dtype).view(entry.spec.shape)


def _assemble(manifest: Manifest, tensors: Mapping[str, torch.Tensor]) -> ExpertDelta:
    matrices: dict[str, CompressedDelta] = {}
    exact: dict[str, torch.Tensor] = {}
    added: dict[str, torch.Tensor] = {}
    for record in manifest.parameters:
        if record.codec is None:
            exact[record.name] = tensors[tensor_name(record.name, EXACT_LOCAL)]
            continue
        matrices[record.name] = _matrix(record, tensors)
        if record.added_rows:
            added[record.name] = tensors[tensor_name(record.name, ROWS_LOCAL)]
    return ExpertDelta(name=manifest.name, matrices=matrices, exact=exact, added_rows=added)


def _matrix(record: ParameterRecord, tensors: Mapping[str, torch.Tensor]) -> CompressedDelta:
    assert record.codec is not None
    codec = get_codec(record.codec, record.options)
    rows, width = record.shape[0] - record.added_rows, record.shape[1]
    stored = {}
    for local, spec in codec.layout(rows, width).items():
        tensor = tensors[tensor_name(record.name, local)]
        if TensorSpec(tuple(tensor.shape), tensor.dtype) != spec:
            raise DeltaFormatError(f"{record.name}: {local} must be {spec}, got {list(tensor.shape)} {tensor.dtype}")
        stored[local] = tensor
    return CompressedDelta(codec=record.codec, options=record.options, shape=(rows, width), tensors=stored)


def _short(identity: str) -> str:
    return identity[: len("blake3:") + 12]
