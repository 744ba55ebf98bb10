"""A published table resumes, keeps its raw records, and refuses files that are something else."""

import json
from pathlib import Path

import pytest

from harness.errors import RunFormatError, UsageError
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


def made_with(path: Path | None) -> FlatTable:
    return FlatTable(
        path,
        columns=COLUMNS,
        key=("name", "size"),
        read_configurations=lambda record: [(row, {"dtype": record["dtype"]}) for row in record["rows"]],
    )


def test_a_row_of_the_same_configuration_is_there_and_one_of_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    row = {"name": "a", "size": 1, "value": 2.5}
    made_with(path).add([row], raw={"rows": [row], "dtype": "bfloat16"})
    table = made_with(path)
    assert table.has(row, {"dtype": "bfloat16"})
    assert table.has(row, {})
    assert not table.has({"name": "b", "size": 1}, {"dtype": "float16"})
    with pytest.raises(
        UsageError, match=r"t\.json has a row of name a, size 1, .+dtype bfloat16 there and float16 here"
    ) as e:
        table.has(row, {"dtype": "float16"})
    assert str(e.value).endswith("give another file to --table")
    # measured again, the last record counts
    table.add([row], raw={"rows": [row], "dtype": "float16"})
    assert table.has(row, {"dtype": "float16"})
    assert made_with(path).has(row, {"dtype": "float16"})


def test_a_row_without_its_raw_record_could_be_of_any_configuration(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    row = {"name": "a", "size": 1, "value": 2.5}
    made_with(path).add([row], raw={"rows": [row], "dtype": "bfloat16"})
    raw = tmp_path / "t.raw.jsonl"
    raw.write_text(raw.read_text() + '{"torn')
    assert made_with(path).has(row, {"dtype": "bfloat16"})
    raw.write_text("{torn\n" + raw.read_text())
    with pytest.raises(RunFormatError, match=r"t\.raw\.jsonl, line 1: not JSON"):
        made_with(path)
    raw.unlink()
    with pytest.raises(UsageError, match=r"nothing in .+t\.raw\.jsonl says how it was measured; give another file"):
        made_with(path).has(row, {"dtype": "bfloat16"})
