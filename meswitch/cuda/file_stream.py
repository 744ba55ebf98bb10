"""A file read once from front to back into memory that the caller has already, by several threads at a time.

One thread copies a cached file at a fraction of what memory can do, and leaves a disk's queue all but empty.
"""

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from meswitch.errors import MeswitchError, StorageError

__all__ = ["FileStream", "open_stream"]

PIECE_BYTES = 2 << 20
"""What one thread reads at once."""

BLOCK_BYTES = 4096
"""What direct reads are aligned to."""

THREADS = 8


class FileStream:
    """The next bytes of an open file, as often as they are asked for. Made by `open_stream`."""

    def __init__(
        self, path: Path, descriptor: int, readers: ThreadPoolExecutor, *, direct: bool, error: type[MeswitchError]
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._readers = readers
        self._error = error
        self._next = 0
        self._bounce = memoryview(mmap.mmap(-1, THREADS * PIECE_BYTES)) if direct else None
        # what the bounce buffer holds of the file: from this byte on, so many
        self._held_start = self._held_bytes = 0

    def seek(self, start: int) -> None:
        """Go on at byte `start` of the file."""
        self._next = start

    def read_into(self, view: memoryview) -> None:
        """Fill `view`, bytes, with the file's next ones.

        Raises:
            error: the file is shorter, or cannot be read.
        """
        if self._bounce is None:
            self._fill(view, self._next)
        else:
            self._fill_through(self._bounce, view)
        self._next += len(view)

    def _fill(self, view: memoryview, start: int) -> None:
        pieces = range(0, len(view), PIECE_BYTES)
        done = (
            self._readers.map(lambda at: self._read(view[at : at + PIECE_BYTES], start + at), pieces)
            if len(pieces) > 1
            else [self._read(view, start)]
        )
        if sum(done) < len(view):
            raise self._shorter()

    def _fill_through(self, bounce: memoryview, view: memoryview) -> None:
        """Copy what lies in the bounce buffer, and refill that with whole blocks as often as need be."""
        done = 0
        while done < len(view):
            at = self._next + done
            ahead = self._ahead(at)
            if ahead <= 0:
                self._refill(bounce, at // BLOCK_BYTES * BLOCK_BYTES)
                ahead = self._ahead(at)
                if ahead <= 0:
                    raise self._shorter()
            count, first = min(ahead, len(view) - done), at - self._held_start
            view[done : done + count] = bounce[first : first + count]
            done += count

    def _ahead(self, at: int) -> int:
        """Bytes of the bounce buffer from the file's byte `at` on."""
        return self._held_start + self._held_bytes - at if at >= self._held_start else 0

    def _refill(self, bounce: memoryview, start: int) -> None:
        pieces = range(0, len(bounce), PIECE_BYTES)
        counts = self._readers.map(lambda at: self._read(bounce[at : at + PIECE_BYTES], start + at), pieces)
        # beyond the end of the file every piece is empty, so what was read is contiguous
        self._held_start, self._held_bytes = start, sum(counts)

    def _read(self, view: memoryview, start: int) -> int:
        done = 0
        try:
            while done < len(view):
                count = os.preadv(self._descriptor, [view[done:]], start + done)
                done += count
                # direct reads end in the middle of a block only at the end of the file
                if not count or (self._bounce is not None and count % BLOCK_BYTES):
                    break
        except OSError as cause:
            raise self._error(f"{self._path} cannot be read: {cause.strerror or cause}") from cause
        return done

    def _shorter(self) -> MeswitchError:
        return self._error(f"{self._path} became shorter while it was read; copy or download it again")


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
        with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="meswitch-read") as readers:
            yield FileStream(path, descriptor, readers, direct=direct, error=error)
    finally:
        os.close(descriptor)
