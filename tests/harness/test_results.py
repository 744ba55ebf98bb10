import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from harness.errors import RunFormatError, UsageError
from harness.results import (
    Manifest,
    RunDirectory,
    check_file,
    check_runs_dir,
    find_run,
    new_run_id,
    parse_whole_lines,
    to_json_value,
    write_atomic,
)
from harness.sizes import format_bytes, parse_bytes
from harness.summary import read_summary
from meswitch.config import SchedulerConfig
from meswitch.core import Residency


def manifest(**fields):
    defaults = {
        "run_id": "x",
        "created": "now",
        "status": "complete",
        "command": ("harness",),
        "provenance": {},
        "config": {},
        "trace": {"requests": 1},
        "family": {},
    }
    return Manifest(**{**defaults, **fields})


def test_a_run_id_sorts_by_time():
    first = new_run_id(datetime(2026, 11, 22, 2, 30, 11, tzinfo=UTC))
    assert first.startswith("2026-11-22T02-30-11Z-")
    assert len(first) == len("2026-11-22T02-30-11Z-3f9c")


def test_a_manifest_survives_the_file(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_manifest(manifest())
    assert run.read_manifest() == manifest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a run: cannot read manifest.json"),
        ("{", r"manifest\.json: Invalid JSON"),
        (json.dumps({"run_id": 1}), "field run_id"),
    ],
)
def test_a_damaged_manifest_is_one_clear_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunFormatError, match=message):
        RunDirectory(tmp_path).read_manifest()


def test_a_manifest_of_another_schema_is_refused(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_manifest(manifest(schema="harness-run/9"))
    with pytest.raises(RunFormatError, match="must be harness-run/1, got harness-run/9"):
        run.read_manifest()


def test_a_damaged_summary_is_one_clear_error(tmp_path):
    with pytest.raises(RunFormatError, match="cannot read the summary"):
        read_summary(tmp_path / "summary.json")


def test_runs_are_found_by_path_end_of_id_and_latest(tmp_path):
    for name in ("2026-a-11", "2026-b-22"):
        (tmp_path / name).mkdir()
        RunDirectory(tmp_path / name).write_manifest(manifest())
    assert find_run("11", tmp_path).path.name == "2026-a-11"
    assert find_run("latest", tmp_path).path.name == "2026-b-22"
    assert find_run(str(tmp_path / "2026-a-11"), tmp_path / "elsewhere").path.name == "2026-a-11"
    with pytest.raises(UsageError, match=r"no runs yet in .*none; make one: harness run --trace mixed\.jsonl"):
        find_run("latest", tmp_path / "none")
    with pytest.raises(UsageError, match="no run '33'"):
        find_run("33", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UsageError, match=r"elsewhere is not a run: it has no manifest\.json"):
        find_run(str(tmp_path / "elsewhere"), tmp_path)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomic(path, b"old")

    def fail(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_values_become_plain_json():
    assert to_json_value({"a": Residency.DISK, "b": (1, 2)}) == {"a": "disk", "b": [1, 2]}
    assert to_json_value(SchedulerConfig())["max_rows"] == 16


@pytest.mark.parametrize(
    ("text", "nbytes"), [("32MiB", 33_554_432), ("1.5 GiB", 1_610_612_736), ("500MB", 500_000_000), ("7", 7)]
)
def test_sizes_are_read_as_people_write_them(text, nbytes):
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "lots", "3 apples", "-1MiB", "0"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="a size must"):
        parse_bytes(text)


def test_sizes_are_shown_with_a_binary_unit():
    assert [format_bytes(n) for n in (512, 1536, 33_554_432, 3 * 2**30)] == ["512 B", "1.5 KiB", "32.0 MiB", "3.0 GiB"]


def test_a_place_where_runs_cannot_be_kept_is_refused_and_nothing_is_made(tmp_path):
    check_runs_dir(tmp_path / "new" / "runs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"must be a directory that can be written to, and .+/file is not"):
        check_runs_dir(tmp_path / "file" / "runs")
    with pytest.raises(UsageError, match="--out must be a directory"):
        check_runs_dir(tmp_path / "file", option="--out")


def test_a_place_where_a_file_cannot_be_kept_is_refused_and_nothing_is_made(tmp_path):
    check_file(tmp_path / "new" / "deep" / "t.json")
    check_file(tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    check_file(tmp_path / "file")
    with pytest.raises(UsageError, match=r"--table must be in a directory that can be written to, and .+/file is not"):
        check_file(tmp_path / "file" / "new" / "t.json")
    with pytest.raises(UsageError, match=r"--out must be a file, and .+ is a directory"):
        check_file(tmp_path, option="--out")


def test_of_a_file_that_grows_a_torn_last_line_is_left_out_and_a_damaged_one_before_it_is_named():
    numbers = TypeAdapter(int)
    assert list(parse_whole_lines(numbers, b"1\n2\n3", Path("x"))) == [1, 2]
    assert list(parse_whole_lines(numbers, b"", Path("x"))) == []
    with pytest.raises(RunFormatError, match="x, line 2: Input should be a valid integer"):
        list(parse_whole_lines(numbers, b"1\nnull\n3\n", Path("x")))
