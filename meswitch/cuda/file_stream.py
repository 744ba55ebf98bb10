"""A file read once from front to back into memory that the caller has already, by several threads at a time.

One thread copies a cached file at a fraction of what memory can do, and leaves a disk's queue all but empty. Direct
reads want aligned blocks, so they go through two buffers: one is emptied while the other is filled.
"""

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from meswitch.errors import MeswitchError, StorageError

__all__ = ["FileStream", "open_stream"]

PIECE_BYTES = 2 << 20
"""What one thread reads at once."""

BLOCK_BYTES = 4096
"""What direct reads are aligned to."""

THREADS = 8


class FileStream:
    """The next bytes of an open file, as often as they are asked for. Made by `open_stream`."""

    def __init__(self, pieces: "_Pieces", *, direct: bool) -> None:
        self._pieces = pieces
        self._blocks = _Blocks(pieces) if direct else None
        self._next = 0

    def seek(self, start: int) -> None:
        """Go on at byte `start` of the file."""
        self._next = start

    def read_into(self, view: memoryview) -> None:
        """Fill `view`, bytes, with the file's next ones.

        Raises:
            error: the file is shorter, or cannot be read.
        """
        done = 0
        while done < len(view):
            if self._blocks is not None:
                count = self._blocks.copy_into(view[done:], self._next)
            elif len(view) <= PIECE_BYTES:
                count = self._pieces.read(view[done:], self._next)
            else:
                count = sum(piece.result() for piece in self._pieces.submit(view[done:], self._next))
            if not count:
                raise self._pieces.shorter()
            done += count
            self._next += count


class _Pieces:
    """Reads of an open file, cut up and handed to threads."""

    def __init__(
        self,
        path: Path,
        descriptor: int,
        threads: ThreadPoolExecutor,
        *,
        direct: bool,
        error: type[MeswitchError],
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._threads = threads
        self._direct = direct
        self._error = error

    def submit(self, view: memoryview, start: int) -> list[Future[int]]:
        """Fill `view` from the file's byte `start` on: the bytes read for each piece, fewer only at the file's end."""
        cuts = range(0, len(view), PIECE_BYTES)
        return [self._threads.submit(self.read, view[at : at + PIECE_BYTES], start + at) for at in cuts]

    def shorter(self) -> MeswitchError:
        """The error of a file that ends too early."""
        return self._error(f"{self._path} became shorter while it was read; copy or download it again")

    def read(self, view: memoryview, start: int) -> int:
        """Fill `view` in this thread: the bytes read, fewer only at the file's end."""
        done = 0
        try:
            while done < len(view):
                count = os.preadv(self._descriptor, [view[done:]], start + done)
                done += count
                # a direct read ends within a block only at the file's end, and cannot go on there
                if not count or (self._direct and done % BLOCK_BYTES):
                    break
        except OSError as cause:
            raise self._error(f"{self._path} cannot be read: {cause.strerror or cause}") from cause
        return done


class _Blocks:
    """Aligned blocks of a file: those that were asked for, and the next ones on their way."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._size = THREADS * PIECE_BYTES
        self._held, self._coming = (memoryview(mmap.mmap(-1, self._size)) for _ in range(2))
        self._start = self._count = 0
        self._coming_start = -1
        self._reads: list[Future[int]] = []

    def copy_into(self, view: memoryview, at: int) -> int:
        """How many bytes from the file's byte `at` on were copied to the front of `view`; 0 at the file's end."""
        if not self._start <= at < self._start + self._count:
            self._advance(at // BLOCK_BYTES * BLOCK_BYTES)
        first = at - self._start
        count = min(self._count - first, len(view))
        if count <= 0:
            return 0
        # unlike a copy of Python's own, this one lets other threads run
        target, source = (torch.frombuffer(x, dtype=torch.uint8) for x in (view[:count], self._held[first:]))
        target.copy_(source[:count])
        return count

    def _advance(self, start: int) -> None:
        """Hold the blocks from `start` on, and have those behind them read."""
        if start != self._coming_start:
            self._read(start)
        self._start, self._count = start, sum(read.result() for read in self._reads)
        self._held, self._coming = self._coming, self._held
        self._read(start + self._size)

    def _read(self, start: int) -> None:
        # what is on its way still writes into that buffer
        for read in self._reads:
            read.result()
        self._coming_start, self._reads = start, self._pieces.submit(self._coming, start)


@contextmanager
def open_stream(path: Path, *, direct: bool = False, error: type[MeswitchError] = StorageError) -> Iterator[FileStream]:
    """The file at `path`, before its first byte.

    Args:
        path: of the file.
        direct: read past the system's page cache.
        error: what is raised when reading fails.

    Raises:
        error: it cannot be opened, or its file system has no direct reads.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    except OSError as cause:
        how = " past the page cache" if direct else ""
        raise error(f"{path} cannot be read{how}: {cause.strerror or cause}") from cause
    try:
        with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="meswitch-read") as threads:
            yield FileStream(_Pieces(path, descriptor, threads, direct=direct, error=error), direct=direct)
    finally:
        os.close(descriptor)
