"""The tasks that smollm2's experts are trained on: public data read from a directory, and problems of our own.

Data files are gzipped JSON lines, as they are published; nothing of them is kept.

| task | files below the directory | fields |
| --- | --- | --- |
| `sql` | `wikisql/train.jsonl.gz`, `test.jsonl.gz` | `question`, `sql` |
| `intent` | `clinc150/train.jsonl.gz`, `val.jsonl.gz`, `test.jsonl.gz` | `query`, `intent` |
| `gsm8k` | `gsm8k/train.jsonl.gz`, `test.jsonl.gz` | `question`, `answer` |
| `mbpp` | `mbpp/mbpp.jsonl.gz` | `task_id`, `text`, `code`, `test_list` |
| `velm`, `arithmetic` | none: `workloads.tasks` | |
"""

import gzip
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meswitch.errors import FamilyError
from workloads.tasks import get_task, sample_split

__all__ = ["HARD_TASKS", "SCORED_TASKS", "Pair", "TaskData", "check_files", "check_task", "load_task"]

SCORED_TASKS = ("sql", "intent", "velm", "arithmetic")
"""Tasks with short exact answers, which a model of 135 million parameters learns."""

HARD_TASKS = ("gsm8k", "mbpp")
"""Tasks whose answers such a model seldom gets right as a whole: compared by likelihood."""

SELECTION_SEED = 0
"""Of the choice of validation and test items, which is the same for every seed of training."""

GENERATED = ("velm", "arithmetic")
GENERATED_ROWS = 40_000
GENERATED_TEST_ROWS = 2_000
HELD_OUT_ROWS = 400
"""Validation rows cut from the end of a training file that has no validation split of its own."""

SECTION = tuple[range, range, range]
MBPP_SPLIT: SECTION = (range(601, 975), range(511, 601), range(11, 511))
"""Training, validation and test ids, as its authors split it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a model is asked, and the only answer that is right; or one of them, where there are `tests` of programs."""

    prompt: str
    answer: str
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """One task's problems. `data_hash` is over the files they were read from; `None` if there are none."""

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]
    data_hash: str | None


def load_task(name: str, data: Path, *, seed: int) -> TaskData:
    """The problems of a task.

    Args:
        name: one of `SCORED_TASKS` and `HARD_TASKS`.
        data: the directory of the files named above; not looked at for generated tasks.
        seed: of the generated training problems, and of nothing else.

    Raises:
        FamilyError: there is no such task, or a file is missing or not as described.
    """
    check_files(name, data)
    if name in GENERATED:
        return generated_task(name, seed)
    files, read = READERS[name]
    paths = [data / file for file in files]
    try:
        train, validation, test = read([rows_of(path) for path in paths])
        digest = hash_of(paths)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise FamilyError(
            f"task {name}: {', '.join(map(str, paths))} must be as docs/quality.md says: {cause}"
        ) from cause
    shuffled = [random.Random(SELECTION_SEED).sample(part, len(part)) for part in (validation, test)]
    return TaskData(
        name=name, train=tuple(train), validation=tuple(shuffled[0]), test=tuple(shuffled[1]), data_hash=digest
    )


def generated_task(name: str, seed: int) -> TaskData:
    """Problems of `workloads.tasks`; those of its test split serve for validation and test, half each."""
    task = get_task(name)
    train = sample_split(task, "train", GENERATED_ROWS, seed)
    held = sample_split(task, "test", 2 * GENERATED_TEST_ROWS, SELECTION_SEED)
    pairs = [tuple(Pair(p.prompt, p.answer) for p in part) for part in (train, held)]
    return TaskData(
        name=name,
        train=pairs[0],
        validation=pairs[1][:GENERATED_TEST_ROWS],
        test=pairs[1][GENERATED_TEST_ROWS:],
        data_hash=None,
    )


def check_task(name: str) -> None:
    """Refuse a task that there is not.

    Raises:
        FamilyError: with the names of those that there are.
    """
    known = (*SCORED_TASKS, *HARD_TASKS)
    if name not in known:
        raise FamilyError(f"task must be one of {', '.join(known)}, got {name!r}")


def check_files(name: str, data: Path) -> None:
    """Refuse a task that there is not, or whose files are not below `data`. Opens none of them.

    Raises:
        FamilyError: with the first file that is missing.
    """
    check_task(name)
    for file in () if name in GENERATED else READERS[name][0]:
        if not (data / file).is_file():
            raise FamilyError(f"task {name} needs {data / file}; give the directory that holds it with --data")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def hash_of(paths: Sequence[Path]) -> str:
    """One BLAKE3 over the files' bytes."""
    from blake3 import blake3

    digest = blake3()
    for path in paths:
        digest.update(path.read_bytes())
    return str(digest.hexdigest())


Rows = list[dict[str, Any]]
Parts = tuple[list[Pair], list[Pair], list[Pair]]


def read_sql(files: Sequence[Rows]) -> Parts:
    """WikiSQL, its last training rows for validation. Tables of the training and test files are nearly disjoint."""
    train, test = ([Pair(f"Write the SQL for: {row['question']}", plain_sql(row["sql"])) for row in f] for f in files)
    return train[:-HELD_OUT_ROWS], train[-HELD_OUT_ROWS:], test


def plain_sql(text: str) -> str:
    """A query without the aliases and suffixes that its collection gives every name alike."""
    text = text.replace("TABLEalias0.", "").replace(" AS TABLEalias0", "").removesuffix(";").strip()
    return re.sub(r"_FIELD\b", "", text)


def read_intent(files: Sequence[Rows]) -> Parts:
    """CLINC150: the intent's name in words."""
    parts = [[Pair(f"Name the intent: {r['query']}", r["intent"].replace("_", " ")) for r in rows] for rows in files]
    return parts[0], parts[1], parts[2]


def read_gsm8k(files: Sequence[Rows]) -> Parts:
    """GSM8K with its worked answers, its last training rows for validation."""
    train, test = ([Pair(row["question"], row["answer"]) for row in rows] for rows in files)
    return train[:-HELD_OUT_ROWS], train[-HELD_OUT_ROWS:], test


def read_mbpp(files: Sequence[Rows]) -> Parts:
    """MBPP in its authors' splits; the first test names the function."""
    pairs = {
        row["task_id"]: Pair(f"{row['text']} {row['test_list'][0]}", row["code"].replace("\r", ""), program_tests(row))
        for row in files[0]
    }
    parts = [[pairs[number] for number in numbers if number in pairs] for numbers in MBPP_SPLIT]
    return parts[0], parts[1], parts[2]


def program_tests(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a program is tested with: the row's set-up, if it has one, and its assertions."""
    setup = row.get("test_setup_code", "").replace("\r", "")
    return (*([setup] if setup else []), *row["test_list"])


READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Sequence[Rows]], Parts]]] = {
    "sql": (("wikisql/train.jsonl.gz", "wikisql/test.jsonl.gz"), read_sql),
    "intent": (("clinc150/train.jsonl.gz", "clinc150/val.jsonl.gz", "clinc150/test.jsonl.gz"), read_intent),
    "gsm8k": (("gsm8k/train.jsonl.gz", "gsm8k/test.jsonl.gz"), read_gsm8k),
    "mbpp": (("mbpp/mbpp.jsonl.gz",), read_mbpp),
}
