from pathlib import Path

import pytest

from harness.errors import RunFormatError, UsageError
from harness.fidelity.scores import (
    Record,
    append_record,
    keep_records,
    pack_records,
    read_file,
    read_records,
    record_path,
)
from tests.harness.fidelity.plain_record import plain_record


def record(arm: str, **changes: object) -> Record:
    fields = {"arm": arm, "tokens": (2, 1), "nll": (0.5, 0.25), "kl": (0.0, 0.125), "agree": (2, 0), "right": (1, 1)}
    return plain_record(**(fields | changes))


def test_records_are_read_as_they_were_written_plain_and_packed(tmp_path: Path) -> None:
    path = record_path(tmp_path, "t", 0)
    made = [record("base"), record("x", gain=0.9), record("x", gain_matched=True)]
    for one in made:
        append_record(path, one)
    assert read_file(path) == made
    pack_records(tmp_path, [("t", 0)])
    packed = path.with_suffix(".jsonl.gz")
    first = packed.read_bytes()
    assert not path.exists()
    assert read_records(tmp_path) == made
    append_record(path, record("y"))
    assert [r.arm for r in read_file(path)] == ["base", "x", "x", "y"]
    pack_records(tmp_path, [("t", 0)])
    assert packed.read_bytes() != first


def test_torn_last_line_is_ignored_and_written_over(tmp_path: Path) -> None:
    path = record_path(tmp_path, "t", 0)
    append_record(path, record("base"))
    with path.open("a") as file:
        file.write('{"schema": "harness-fi')
    assert [r.arm for r in read_file(path)] == ["base"]
    append_record(path, record("expert"))
    assert [r.arm for r in read_file(path)] == ["base", "expert"]


def test_damaged_line_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = record_path(tmp_path, "t", 0)
    append_record(path, record("base"))
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(RunFormatError, match=r"t-0\.jsonl, line 1"):
        read_file(path)


def test_records_of_other_weights_are_dropped(tmp_path: Path) -> None:
    path = record_path(tmp_path, "t", 0)
    append_record(path, record("base", expert_hash="old"))
    append_record(path, record("expert"))
    assert [r.arm for r in keep_records(path, "h")] == ["expert"]
    assert [r.arm for r in read_file(path)] == ["expert"]


def test_folder_without_records_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run harness quality without --rebuild first"):
        read_records(tmp_path)
