"""An expert's image from its delta directory: one pass over the file, each tensor straight into its place."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from blake3 import blake3

from meswitch.codecs.selection import check_channels
from meswitch.cuda.file_stream import FileStream, open_stream
from meswitch.cuda.image import piece, zero_gaps
from meswitch.cuda.slot_layout import MatrixPart, Place, SlotLayout
from meswitch.errors import DeltaFormatError
from meswitch.format.reader import DeltaDirectory
from meswitch.format.writer import TENSOR_FILE
from meswitch.plan import EXACT_LOCAL, FLOATS, tensor_name
from meswitch.tensor_file import PAD_PREFIX, StoredTensor, read_header, tensor_bytes

__all__ = ["DeltaImageSource"]


class DeltaImageSource:
    """The image of the expert in a delta directory.

    Args:
        directory: of an expert that `layout_of` took into account.
        layout: of the image.
        direct: read past the system's page cache.

    Raises:
        DeltaFormatError: the file's header is damaged, or its tensors are not those that the layout has places for.
    """

    def __init__(self, directory: DeltaDirectory, layout: SlotLayout, *, direct: bool = False) -> None:
        self._directory = directory
        self._layout = layout
        self._direct = direct
        self._targets = _targets(layout)
        self._read_header()

    @property
    def nbytes(self) -> int:
        """Bytes of the image."""
        return self._layout.nbytes

    @property
    def read_bytes(self) -> int:
        """Bytes of the delta's file of tensors."""
        return self._directory.read_bytes

    def fill(self, image: torch.Tensor) -> None:
        """Write all of `image`, `[nbytes]` uint8, from the file, which is hashed on the way.

        Raises:
            DeltaFormatError: the file is not the one that the manifest vouches for.
        """
        path, header = self._directory.tensor_file, self._read_header()
        zero_gaps(image, (place for target in self._targets.values() for place in target.places))
        with open_stream(path, direct=self._direct, error=DeltaFormatError) as stream, _hasher() as hasher:
            # the header itself counts for the hash
            _skip(stream, hasher, next(iter(header.values())).start)
            for name, stored in header.items():
                if name.startswith(PAD_PREFIX):
                    _skip(stream, hasher, stored.spec.nbytes)
                else:
                    _read(stream, hasher, stored, image, self._targets[name])
            digest = hasher.hexdigest()
        if digest != self._directory.manifest.files[TENSOR_FILE].blake3:
            raise DeltaFormatError(
                f"{path} is damaged: its BLAKE3 is not the manifest's; copy or compress the expert again"
            )
        self._check_channels(image)

    def _read_header(self) -> Mapping[str, StoredTensor]:
        path = self._directory.tensor_file
        header = read_header(path, error=DeltaFormatError)
        for name, target in self._targets.items():
            if name not in header and target.is_needed:
                raise DeltaFormatError(f"{path} must hold {name}; compress the expert again")
        for name, stored in header.items():
            if name.startswith(PAD_PREFIX):
                continue
            if name not in self._targets:
                raise DeltaFormatError(f"{path} holds {name}, which the base's architecture has no place for")
            self._targets[name].check(f"{path}: {name}", stored)
        return header

    def _check_channels(self, image: torch.Tensor) -> None:
        for part in self._layout.parts():
            if isinstance(part, MatrixPart) and part.code.salient:
                for name, places in part.places():
                    check_channels(f"of {name}", piece(image, places["salient"][0]), part.K)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a stored tensor goes, and whether it may differ from what lies there."""

    places: tuple[Place, ...]
    broadcasts: bool = False
    converts: bool = False

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to store."""
        return self.places[0].spec.nbytes > 0

    def check(self, name: str, stored: StoredTensor) -> None:
        """Nothing, if the stored tensor fits into its places."""
        found, wanted = stored.spec, self.places[0].spec
        fits = found.shape == wanted.shape or (self.broadcasts and found.shape == (1,))
        if not fits or not (found.dtype == wanted.dtype or (self.converts and found.dtype in FLOATS)):
            raise DeltaFormatError(
                f"{name} must be {list(wanted.shape)} {wanted.dtype}, got {list(found.shape)} {found.dtype}; "
                "compress the expert again"
            )


def _targets(layout: SlotLayout) -> dict[str, _Target]:
    """Where each tensor of a delta's file goes, by its name there."""
    targets: dict[str, _Target] = {}
    for part in layout.parts():
        if isinstance(part, MatrixPart):
            for name, places in part.places():
                for local, where in places.items():
                    # one step for the whole matrix is one for each row
                    targets[tensor_name(name, local)] = _Target(tuple(where), broadcasts=local == part.stored[1])
        else:
            for name, place in part.places():
                targets[tensor_name(name, EXACT_LOCAL)] = _Target((place,), converts=True)
    return targets


def _read(stream: FileStream, hasher: "_Hasher", stored: StoredTensor, image: torch.Tensor, target: _Target) -> None:
    straight = len(target.places) == 1 and stored.spec == target.places[0].spec
    tensor = piece(image, target.places[0]) if straight else torch.empty(stored.spec.shape, dtype=stored.spec.dtype)
    view = tensor_bytes(tensor)
    stream.read_into(view)
    hasher.update(view)
    if not straight:
        for place in target.places:
            piece(image, place).copy_(tensor)


def _skip(stream: FileStream, hasher: "_Hasher", nbytes: int) -> None:
    view = memoryview(bytearray(nbytes))
    stream.read_into(view)
    hasher.update(view)


class _Hasher:
    """BLAKE3 of pieces in order, in a thread of its own: the next piece is read while the last one is hashed."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._blake3 = blake3(max_threads=blake3.AUTO)

    def update(self, view: memoryview) -> None:
        """Add `view`, which must not change until `hexdigest`."""
        self._executor.submit(self._blake3.update, view)

    def hexdigest(self) -> str:
        """Of all pieces."""
        return str(self._executor.submit(self._blake3.hexdigest).result())


@contextmanager
def _hasher() -> Iterator[_Hasher]:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="meswitch-hash") as executor:
        yield _Hasher(executor)
