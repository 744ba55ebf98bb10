"""A published table resumes, keeps its raw records, and refuses files that are something else."""

import json
from pathlib import Path

import pytest

from harness.errors import RunFormatError
from harness.flat_table import FlatTable

COLUMNS = ("name", "size", "value")


def table_at(path: Path | None) -> FlatTable:
    return FlatTable(path, columns=COLUMNS, key=("name", "size"))


def test_rows_are_there_again_when_the_table_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.json"
    table = table_at(path)
    table.add([{"name": "a", "size": 1, "value": 2.5}], raw={"samples": [2, 3]})
    table.add([{"name": "a", "size": None, "value": 4.0}], raw={"samples": [4]})
    again = table_at(path)
    assert again.rows == table.rows == json.loads(path.read_text())
    assert {"name": "a", "size": None, "other": 0} in again
    assert {"name": "b", "size": 1} not in again
    raw = (tmp_path / "new" / "t.raw.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in raw] == [{"samples": [2, 3]}, {"samples": [4]}]


def test_a_row_measured_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    table = table_at(tmp_path / "t.json")
    for value in (1.0, 2.0):
        table.add([{"name": "a", "size": 1, "value": value}, {"name": "b", "size": 1, "value": value}], raw={})
    assert [row["value"] for row in table_at(tmp_path / "t.json").rows] == [2.0, 2.0]
    assert len((tmp_path / "t.raw.jsonl").read_text().splitlines()) == 2


def test_without_a_file_rows_are_kept_in_memory() -> None:
    table = table_at(None)
    table.add([{"name": "a", "size": 1, "value": 0}], raw={})
    assert {"name": "a", "size": 1} in table


@pytest.mark.parametrize("content", ["{", "{}", '[{"name": "a"}]', "[1]"])
def test_another_file_is_refused_and_stays_as_it_is(content: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(RunFormatError, match=r"t\.json"):
        table_at(path)
    assert path.read_text() == content


def test_a_row_of_other_columns_is_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match="columns name, size, value, got name, value, size"):
        table_at(None).add([{"name": "a", "value": 0, "size": 1}], raw={})
