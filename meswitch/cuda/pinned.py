"""Host memory that the GPU copies from by itself: made and pinned at the start, and never again while serving.

To pin a gigabyte takes half a second, and an allocator that rounds sizes up would take twice the memory of an image:
so each image is a mapping of exactly its pages, pinned as it is.
"""

import mmap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch

from meswitch.cuda.host_memory import available_bytes
from meswitch.cuda.kept_images import KeptImages
from meswitch.errors import CapacityError

__all__ = ["PinnedArena"]

PAGE_BYTES = 2 << 20
"""Of the large pages that are asked for: fewer entries to walk for whoever copies."""

PINNING_THREADS = 8


class PinnedArena:
    """Images of equal size, taken and given back; plain memory where `device` is the CPU.

    Args:
        nbytes: of each image.
        images: how many.
        device: that will copy from them.
        kept: images of engines that are gone, which this arena takes first and leaves there when it is closed.

    Raises:
        CapacityError: the system has not so much memory, or does not let it be pinned.
    """

    def __init__(self, nbytes: int, *, images: int, device: torch.device, kept: KeptImages | None = None) -> None:
        if nbytes < 1 or images < 0:
            raise ValueError(f"images must have bytes, got {images} of {nbytes}")
        self._device = device
        self._kept = KeptImages() if kept is None else kept
        self._outlives = kept is not None
        self.image_bytes = nbytes
        self.images = self._kept.take(nbytes, images)
        try:
            self._check_available(images - len(self.images))
            self._make(images - len(self.images))
        except BaseException:
            self.close()
            raise
        self._free = list(reversed(self.images))

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.image_bytes * len(self.images)

    @property
    def free(self) -> int:
        """Images that can be taken."""
        return len(self._free)

    def take(self) -> torch.Tensor:
        """An image that nobody has, `[nbytes]` uint8, with whatever it held before."""
        return self._free.pop()

    def give(self, image: torch.Tensor) -> None:
        """Take an image back."""
        self._free.append(image)

    def close(self) -> None:
        """Unpin everything that nobody keeps. Nothing may copy from it any more. Idempotent."""
        self._kept.give(self.image_bytes, self.images, release=self._release)
        self.images = ()
        if not self._outlives:
            self._kept.close()

    def _check_available(self, images: int) -> None:
        # the system promises memory that it does not have, and kills who believes it
        needed = images * self.image_bytes
        if needed > available_bytes():
            # of another size, or more than are needed: room all the same
            self._kept.close()
        if needed > (available := available_bytes()):
            raise CapacityError(
                f"host memory must hold {images} images of {self.image_bytes} bytes = {needed}, {available} are left; "
                "lower the host budget, or let random experts share images"
            )

    def _release(self, image: torch.Tensor) -> None:
        if self._device.type != "cpu":
            _check(_cuda().cudaHostUnregister(image.data_ptr()))

    def _make(self, images: int) -> None:
        make: Callable[[int], torch.Tensor] = self._mapped if self._device.type == "cpu" else self._registered
        lock = threading.Lock()

        def add(nbytes: int) -> None:
            image = make(nbytes)
            # at once: where another one fails, whoever closes this arena unpins those that did not
            with lock:
                self.images += (image,)

        with ThreadPoolExecutor(max_workers=PINNING_THREADS) as threads:
            # the first failure cancels what has not begun
            list(threads.map(add, [self.image_bytes] * images))

    def _mapped(self, nbytes: int) -> torch.Tensor:
        size = -(-nbytes // PAGE_BYTES) * PAGE_BYTES
        try:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError) as cause:
            raise CapacityError(f"host memory must hold {nbytes} bytes more, got {cause}; lower the budget") from cause
        # a kernel without large pages does without
        with suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(pages, dtype=torch.uint8)[:nbytes]

    def _registered(self, nbytes: int) -> torch.Tensor:
        image = self._mapped(nbytes)
        # pages are made here, by several threads at once, and only locked by the driver
        image.zero_()
        with torch.cuda.device(self._device):
            code = _cuda().cudaHostRegister(image.data_ptr(), nbytes, 0)
        try:
            _check(code)
        except CapacityError:
            # the error knows this frame, and would keep the pages for as long as somebody keeps it
            del image
            raise
        return image


def _cuda() -> Any:
    """CUDA's runtime library."""
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _check(code: Any) -> None:
    if code != _cuda().cudaError.success:
        raise CapacityError(f"host memory must be pinnable, CUDA answers {code}; lower the host budget")
