"""Host images that outlive an engine, for the next one of the same process: to pin a gigabyte takes half a second."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # whoever has no image yet need not wait for it
    import torch

__all__ = ["KeptImages"]


class KeptImages:
    """Images by their size, in the order in which they were first taken.

    Attributes:
        drawn: what was drawn into an image, by its address; whoever writes anything else into one removes its entry.
    """

    def __init__(self) -> None:
        self._images: dict[int, list[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]] = {}
        self.drawn: dict[int, Hashable] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all that nobody has taken."""
        return sum(nbytes * len(images) for nbytes, images in self._images.items())

    def take(self, nbytes: int, most: int) -> tuple[torch.Tensor, ...]:
        """At most `most` images of `nbytes` bytes, with whatever they held before."""
        found = self._images.get(nbytes, [])
        self._images[nbytes] = found[most:]
        return tuple(image for image, _ in found[:most])

    def give(self, nbytes: int, images: tuple[torch.Tensor, ...], *, release: Callable[[torch.Tensor], None]) -> None:
        """Keep `images`; `release` frees one once nobody wants it any more."""
        self._images[nbytes] = [*((image, release) for image in images), *self._images.get(nbytes, [])]

    def close(self) -> None:
        """Release everything that nobody has taken. Idempotent."""
        for images in self._images.values():
            while images:
                image, release = images.pop()
                self.drawn.pop(image.data_ptr(), None)
                release(image)
