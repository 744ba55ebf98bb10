import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from meswitch.errors import FamilyError
from meswitch.families.smollm2.tasks import Pair, load_task, plain_sql


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_sql_loses_the_names_that_every_query_has() -> None:
    text = 'SELECT MIN TABLEalias0.HOME_TEAM_FIELD FROM TABLE AS TABLEalias0 WHERE TABLEalias0.FIELD_FIELD = "a b" ;'
    assert plain_sql(text) == 'SELECT MIN HOME_TEAM FROM TABLE WHERE FIELD = "a b"'


def test_sql_holds_its_last_training_rows_back(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "sql": f"SELECT {i}"} for i in range(450)]
    write(tmp_path / "wikisql/train.jsonl.gz", rows)
    write(tmp_path / "wikisql/test.jsonl.gz", [{"question": "t", "sql": "SELECT t"}])
    task = load_task("sql", tmp_path, seed=0)
    assert len(task.train) == 50
    assert task.train[0] == Pair("Write the SQL for: q0", "SELECT 0")
    assert {pair.answer for pair in task.validation} == {f"SELECT {i}" for i in range(50, 450)}
    assert task.test == (Pair("Write the SQL for: t", "SELECT t"),)


def test_intents_are_words(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write(tmp_path / f"clinc150/{name}.jsonl.gz", [{"query": f"{name}?", "intent": "smart_home"}])
    task = load_task("intent", tmp_path, seed=0)
    assert task.validation == (Pair("Name the intent: val?", "smart home"),)


def test_mbpp_is_split_by_its_authors_numbers(tmp_path: Path) -> None:
    rows = [{"task_id": i, "text": f"t{i}", "code": "a\r\nb", "test_list": ["assert f() == 1"]} for i in range(1, 975)]
    write(tmp_path / "mbpp/mbpp.jsonl.gz", rows)
    task = load_task("mbpp", tmp_path, seed=0)
    assert (len(task.train), len(task.validation), len(task.test)) == (374, 90, 500)
    assert task.train[0] == Pair("t601 assert f() == 1", "a\nb", ("assert f() == 1",))


def test_what_sets_a_program_up_comes_before_its_tests(tmp_path: Path) -> None:
    row = {
        "text": "t",
        "code": "c",
        "test_list": ["assert f(X) == 1", "assert f(1) == 2"],
        "test_setup_code": "X = 3\r",
    }
    write(tmp_path / "mbpp/mbpp.jsonl.gz", [{"task_id": number, **row} for number in (601, 511, 11)])
    # the prompt names the function by the first assertion
    expected = Pair("t assert f(X) == 1", "c", ("X = 3", "assert f(X) == 1", "assert f(1) == 2"))
    assert load_task("mbpp", tmp_path, seed=0).test == (expected,)


def test_test_items_are_the_same_for_every_seed_and_training_ones_are_not() -> None:
    first, second = load_task("velm", Path(), seed=0), load_task("velm", Path(), seed=1)
    assert first.test == second.test
    assert first.train != second.train
    assert not {pair.prompt for pair in first.test} & {pair.prompt for pair in (*first.train, *first.validation)}


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match=r"task gsm8k needs .*train\.jsonl\.gz; give the directory"):
        load_task("gsm8k", tmp_path, seed=0)


def test_file_of_other_fields_is_refused(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write(tmp_path / f"gsm8k/{name}.jsonl.gz", [{"query": "?"}])
    with pytest.raises(FamilyError, match=r"must be as docs/quality\.md says"):
        load_task("gsm8k", tmp_path, seed=0)


def test_unknown_task_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(FamilyError, match="task must be one of sql, intent, velm, arithmetic, gsm8k, mbpp, got 'x'"):
        load_task("x", Path(), seed=0)
