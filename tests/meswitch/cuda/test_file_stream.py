"""A file arrives whole and in order, whatever pieces it is asked for in, through the page cache or past it."""

import os
from pathlib import Path

import pytest

from meswitch.cuda import file_stream
from meswitch.cuda.file_stream import open_stream
from meswitch.errors import DeltaFormatError, StorageError

BLOCK = file_stream.BLOCK_BYTES


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of two blocks, so that a small file takes many of them."""
    monkeypatch.setattr(file_stream, "PIECE_BYTES", 2 * BLOCK)
    monkeypatch.setattr(file_stream, "THREADS", 3)


def content(nbytes: int) -> bytes:
    return bytes((i * 7 + i // 256) % 256 for i in range(nbytes))


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("nbytes", [1, BLOCK, 5 * BLOCK + 3, 6 * BLOCK, 20 * BLOCK + 1])
def test_pieces_of_any_size_are_the_file_in_order(direct: bool, nbytes: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(nbytes))
    found = bytearray(nbytes)
    view, start = memoryview(found), 0
    with open_stream(tmp_path / "file", direct=direct) as stream:
        for size in (1, 3 * BLOCK - 5, 0, 11, 9 * BLOCK, nbytes):
            stop = min(start + size, nbytes)
            stream.read_into(view[start:stop])
            start = stop
    assert bytes(found) == content(nbytes)


@pytest.mark.parametrize("direct", [False, True])
def test_a_stream_goes_on_where_it_was_told_to(direct: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(12 * BLOCK))
    found = bytearray(10)
    with open_stream(tmp_path / "file", direct=direct) as stream:
        for start in (7 * BLOCK + 5, 3, 12 * BLOCK - 10):
            stream.seek(start)
            stream.read_into(memoryview(found))
            assert bytes(found) == content(12 * BLOCK)[start : start + 10]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("asked", [BLOCK + 1, 30 * BLOCK])
def test_a_file_that_ends_too_early_is_an_error_of_the_callers_kind(direct: bool, asked: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(BLOCK))
    with (
        open_stream(tmp_path / "file", direct=direct, error=DeltaFormatError) as stream,
        pytest.raises(DeltaFormatError, match="became shorter"),
    ):
        stream.read_into(memoryview(bytearray(asked)))


def test_only_direct_reads_go_past_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    flags = []
    opened = os.open
    monkeypatch.setattr(
        file_stream.os, "open", lambda path, flag: flags.append(flag & os.O_DIRECT) or opened(path, flag)
    )
    for direct in (False, True):
        with open_stream(tmp_path / "file", direct=direct):
            pass
    assert flags == [0, os.O_DIRECT]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gone cannot be read: No such file"), open_stream(tmp_path / "gone"):
        pass


def test_a_directory_cannot_be_read(tmp_path: Path) -> None:
    with open_stream(tmp_path) as stream, pytest.raises(StorageError, match="Is a directory"):
        stream.read_into(memoryview(bytearray(1)))
