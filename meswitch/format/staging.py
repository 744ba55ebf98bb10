"""Directories that appear whole or not at all.

A directory is written beside its target under a hidden name, synced, and renamed. Where the target exists, the two
are exchanged in one step, so that at every moment the target is either the old directory or the new one.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from meswitch.errors import StorageError

__all__ = [
    "clear_directory",
    "exclusive",
    "partial_path",
    "publish",
    "recover",
    "remove_directory",
    "staged",
    "storage_errors",
]

RENAME_EXCHANGE = 2
AT_FDCWD = -100


def partial_path(target: Path) -> Path:
    """Where `target` is written until it is complete."""
    return target.parent / f".{target.name}.partial"


def _old_path(target: Path) -> Path:
    return target.parent / f".{target.name}.old"


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses inside the block into a `StorageError` about `path`."""
    try:
        yield
    except shutil.Error as cause:
        # a copied tree lists what went wrong with each file: (source, target, why)
        failed = cause.args[0]
        raise StorageError(f"{path} cannot be written: {failed[0][2]} ({len(failed)} files failed)") from cause
    except OSError as cause:
        advice = "; free some space and try again" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StorageError(f"{path} cannot be written: {cause.strerror or cause}{advice}") from cause


@contextlib.contextmanager
def staged(target: Path, *, resumable: bool = False) -> Iterator[Path]:
    """A directory to fill, which becomes `target` when the block ends.

    An error in the block removes it. With `resumable`, an interruption leaves it and the next call finds it again.

    Raises:
        StorageError: the disk refuses, or another process is writing the same target.
    """
    partial = partial_path(target)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        partial.mkdir(exist_ok=True)
        with _locked(partial):
            try:
                if not resumable:
                    clear_directory(partial)
                yield partial
                publish(partial, target)
            except KeyboardInterrupt:
                if not resumable:
                    remove_directory(partial)
                raise
            except BaseException:
                remove_directory(partial)
                raise


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """A block that one process at a time may be in for one `target`; others wait.

    Raises:
        StorageError: the disk refuses.
    """
    if sys.platform == "win32":
        yield
        return
    lock = target.parent / f".{target.name}.lock"
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock_file(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock_file(path: Path) -> int:
    """The descriptor of the file `path`, locked: closing it unlocks it."""
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # the one before deletes the file while it still holds it, so this one may hold what is no file any more
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def publish(staged_dir: Path, target: Path) -> None:
    """Make the complete directory `staged_dir` appear as `target`, in one step, once all of it is on the disk."""
    for directory, _, files in os.walk(staged_dir):
        for name in files:
            _sync(Path(directory) / name)
        _sync(Path(directory))
    if target.exists():
        _exchange(staged_dir, target)
    else:
        staged_dir.rename(target)
    _sync(target.parent)
    remove_directory(staged_dir)


def recover(target: Path) -> None:
    """Bring back the old directory if a replacement was cut off between its two renames."""
    old = _old_path(target)
    if old.exists():
        if target.exists():
            remove_directory(old)
        else:
            old.rename(target)


def remove_directory(path: Path) -> None:
    """Delete a directory with all it holds; nothing if it is not there."""
    if path.exists():
        shutil.rmtree(path)


def clear_directory(path: Path) -> None:
    """Delete all that a directory holds."""
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def _exchange(staged_dir: Path, target: Path) -> None:
    if _exchange_at_once(staged_dir, target):
        return
    # a file system without exchange: the gap between two renames is closed by `recover`
    old = _old_path(target)
    target.rename(old)
    staged_dir.rename(target)
    remove_directory(old)


def _exchange_at_once(first: Path, second: Path) -> bool:
    """Whether the kernel exchanged the two; `False` where it or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _sync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        # there, a directory cannot be opened, and its entries are durable without it
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise _busy(directory) from cause
        # the other process may have published the directory between our opening and locking it
        if not directory.exists() or not os.path.samestat(os.fstat(descriptor), directory.stat()):
            raise _busy(directory)
        yield
    finally:
        os.close(descriptor)


def _busy(directory: Path) -> StorageError:
    return StorageError(f"{directory} is being written by another process; wait until it has ended")
