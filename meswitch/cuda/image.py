"""Where the bytes of an expert come from, and how tensors lie in an image."""

from collections.abc import Iterable
from typing import Protocol

import torch

from meswitch.cuda.slot_layout import Place

__all__ = ["ImageSource", "piece", "zero_gaps"]


class ImageSource(Protocol):
    """One expert as an image of bytes, made again whenever host memory has forgotten it."""

    @property
    def nbytes(self) -> int:
        """Bytes of the image."""

    @property
    def read_bytes(self) -> int:
        """Bytes of files that `fill` reads."""

    def fill(self, image: torch.Tensor) -> None:
        """Write all of `image`, `[nbytes]` uint8 in host memory, whatever it held before. Runs in a worker thread.

        Raises:
            MeswitchError: the expert cannot be read, or is not what it should be; `image` holds no expert then.
        """


def piece(image: torch.Tensor, place: Place) -> torch.Tensor:
    """The tensor at `place`, a view of `image`."""
    flat = image[place.offset : place.offset + place.spec.nbytes]
    return flat.view(place.spec.dtype).view(place.spec.shape)


def zero_gaps(image: torch.Tensor, places: Iterable[Place]) -> None:
    """Set to zero what no place covers, such as the padding between parts."""
    end = 0
    for place in sorted(places, key=lambda place: place.offset):
        image[end : place.offset].zero_()
        end = max(end, place.offset + place.spec.nbytes)
    image[end:].zero_()
