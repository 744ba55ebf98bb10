"""A whole model's image from its checkpoint: the baseline's switch, made as fast as the disk allows."""

from pathlib import Path

import torch

from meswitch.checkpoint import Checkpoint
from meswitch.cuda.file_stream import FileStream, open_stream
from meswitch.cuda.image import piece, zero_gaps
from meswitch.cuda.whole_layout import WholeLayout
from meswitch.errors import CheckpointError, UnsupportedModelError
from meswitch.tensor_file import StoredTensor, read_header, tensor_bytes

__all__ = ["WholeImageSource"]


class WholeImageSource:
    """The image of the model in a checkpoint directory.

    Args:
        root: a checkpoint of the shape that `layout` is for.
        layout: of the image.
        direct: read past the system's page cache.

    Raises:
        CheckpointError: the checkpoint is damaged, lacks a parameter, or has one of another shape.
    """

    def __init__(self, root: Path, layout: WholeLayout, *, direct: bool = False) -> None:
        self._layout = layout
        self._direct = direct
        self._places = dict(layout.places())
        self._checkpoint = Checkpoint(root)
        for name, place in self._places.items():
            found = self._checkpoint.spec(name)
            if found.shape != place.spec.shape:
                raise UnsupportedModelError(
                    f"{root}: on CUDA {name} must have the base's shape {list(place.spec.shape)}, "
                    f"got {list(found.shape)}"
                )
            # floating-point types of a byte are what quantised weights are stored in
            if not found.dtype.is_floating_point or found.dtype.itemsize < 2:
                raise UnsupportedModelError(f"{root}: {name} is {found.dtype}, already quantised")

    @property
    def nbytes(self) -> int:
        """Bytes of the image."""
        return self._layout.nbytes

    @property
    def read_bytes(self) -> int:
        """Bytes of the checkpoint's files."""
        return sum(file.stat().st_size for file in self._checkpoint.files)

    def fill(self, image: torch.Tensor) -> None:
        """Write all of `image`, `[nbytes]` uint8.

        Raises:
            CheckpointError: a file cannot be read, or is not the one it was.
        """
        zero_gaps(image, self._places.values())
        missing = set(self._places)
        for path in self._checkpoint.files:
            header = read_header(path, error=CheckpointError)
            with open_stream(path, direct=self._direct, error=CheckpointError) as stream:
                for name in [name for name in header if name in self._places]:
                    if header[name].spec != self._checkpoint.spec(name):
                        raise CheckpointError(f"{path} must not change while the engine runs; start it again")
                    _read(stream, header[name], piece(image, self._places[name]))
                    missing.discard(name)
        if missing:
            raise CheckpointError(f"{self._checkpoint.root} must not change while the engine runs; start it again")


def _read(stream: FileStream, stored: StoredTensor, target: torch.Tensor) -> None:
    stream.seek(stored.start)
    straight = stored.spec.dtype == target.dtype
    tensor = target if straight else torch.empty(stored.spec.shape, dtype=stored.spec.dtype)
    stream.read_into(tensor_bytes(tensor))
    if not straight:
        target.copy_(tensor)
