"""A directory is there whole or not at all, whatever fails and whenever."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from meswitch.errors import StorageError
from meswitch.format import staging
from meswitch.format.staging import exclusive, partial_path, recover, staged


def fill(directory: Path, text: str) -> None:
    (directory / "a.txt").write_text(text)
    (directory / "sub").mkdir(exist_ok=True)
    (directory / "sub" / "b.txt").write_text(text)


def fill_and_raise(target: Path, error: BaseException, **options: bool) -> None:
    with staged(target, **options) as root:
        fill(root, "new")
        raise error


def content(directory: Path) -> dict[str, str]:
    return {p.relative_to(directory).as_posix(): p.read_text() for p in directory.rglob("*.txt")}


def test_directory_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    with staged(tmp_path / "deep" / "target") as root:
        fill(root, "new")
        assert not (tmp_path / "deep" / "target").exists()
    assert content(tmp_path / "deep" / "target") == {"a.txt": "new", "sub/b.txt": "new"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["target"]


@pytest.mark.parametrize("exchange", [True, False])
def test_existing_directory_is_replaced_as_a_whole(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(staging, "_exchange_at_once", lambda *_: False)
    target = tmp_path / "target"
    with staged(target) as root:
        fill(root, "old")
        (root / "only-old.txt").write_text("old")
    with staged(target) as root:
        fill(root, "new")
    assert content(target) == {"a.txt": "new", "sub/b.txt": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_error_inside_leaves_the_old_directory_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with staged(target) as root:
        fill(root, "old")
    with pytest.raises(RuntimeError, match="halfway"):
        fill_and_raise(target, RuntimeError("halfway"))
    assert content(target) == {"a.txt": "old", "sub/b.txt": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("resumable", [True, False])
def test_interruption_leaves_work_only_where_it_can_be_resumed(resumable: bool, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(KeyboardInterrupt):
        fill_and_raise(target, KeyboardInterrupt(), resumable=resumable)
    assert not target.exists()
    assert partial_path(target).exists() is resumable


@pytest.mark.parametrize("call", ["fsync", "open", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_disk_that_refuses_leaves_the_old_directory(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    with staged(target) as root:
        fill(root, "old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if call == "rename":
            patch.setattr(staging, "_exchange", refuse)
        else:
            patch.setattr(staging.os, call, refuse)
        with pytest.raises(StorageError, match=os.strerror(code)), staged(target) as root:
            fill(root, "new")
    assert content(target) == {"a.txt": "old", "sub/b.txt": "old"}


def test_copy_of_a_tree_that_fails_is_one_short_message(tmp_path: Path) -> None:
    failed = [(f"s{i}", f"t{i}", "[Errno 28] No space left on device: 's'") for i in range(9)]
    message = r"x cannot be written: .* No space left on device: 's' \(9 files failed\)$"
    with pytest.raises(StorageError, match=message), staged(tmp_path / "x"):
        raise shutil.Error(failed)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_exchange_without_kernel_support_is_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    with staged(target) as root:
        fill(root, "old")
    # what a kill between the two renames leaves behind
    target.rename(tmp_path / ".target.old")
    recover(target)
    assert content(target) == {"a.txt": "old", "sub/b.txt": "old"}
    # and what one after them leaves behind
    fill_old = tmp_path / ".target.old"
    fill_old.mkdir()
    recover(target)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_second_writer_of_one_target_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with staged(tmp_path / "target") as root:
        fill(root, "first")
        with pytest.raises(StorageError, match="another process"), staged(tmp_path / "target") as other:
            fill(other, "second")
    assert content(tmp_path / "target") == {"a.txt": "first", "sub/b.txt": "first"}


def test_a_second_one_waits_for_an_exclusive_block(tmp_path: Path) -> None:
    target, order = tmp_path / "deep" / "target", []

    def second() -> None:
        with exclusive(target):
            order.append("second")

    with exclusive(target):
        waiting = threading.Thread(target=second)
        waiting.start()
        # long enough to get in, if nothing held it back
        waiting.join(0.2)
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]
    assert not list(target.parent.iterdir())
