"""What is kept of every program that a model wrote: the raw records of `harness quality smollm2 --generate`.

One file for each expert, `programs/<task>-<seed>.jsonl`, one line for each arm. A torn last line is ignored, and its
arm answered again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from harness.errors import UsageError
from harness.results import parse_whole_lines, write_atomic
from workloads.sandbox import Outcome

__all__ = ["ProgramRecord", "append_programs", "keep_programs", "read_programs"]

FOLDER = "programs"
SCHEMA = "harness-programs/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRecord:
    """One arm's programs for one expert's problems, in the problems' order.

    Attributes:
        expert_hash: of the expert's weights: only records of the same weights belong together.
        arm: a codec's spec; `base`, `expert`, or `reference`, the data's own solutions.
        bits_per_weight: of the linear weights; expert_bytes: those, and all other parameters in 16 bits.
        seconds, memory_bytes: that a program might take.
        isolated: whether all of them had neither network nor other processes in sight.
        outcomes, details: see `workloads.sandbox.Verdict`.
        answers: as they were generated; none of `reference`.
    """

    schema: str = SCHEMA
    family: str
    task: str
    seed: int
    expert_hash: str
    arm: str
    bits_per_weight: float | None
    expert_bytes: int | None
    seconds: float
    memory_bytes: int
    isolated: bool
    outcomes: tuple[Outcome, ...]
    details: tuple[str, ...]
    answers: tuple[str, ...]


_RECORD = TypeAdapter(ProgramRecord)


def append_programs(path: Path, record: ProgramRecord) -> None:
    """Add one record; a torn line before it goes."""
    _write(path, [*_read(path), record])


def keep_programs(path: Path, expert_hash: str, problems: int) -> list[ProgramRecord]:
    """The records of these weights and of so many problems; all others are dropped from the file."""
    records = _read(path)
    kept = [r for r in records if r.expert_hash == expert_hash and len(r.outcomes) == problems]
    if len(kept) < len(records):
        _write(path, kept)
    return kept


def read_programs(output: Path) -> list[ProgramRecord]:
    """All records below `output`, in the order of their files.

    Raises:
        RunFormatError: one is damaged, or experts were asked different numbers of problems of one task.
        UsageError: there are none.
    """
    records = [record for path in sorted((output / FOLDER).glob("*.jsonl")) for record in _read(path)]
    if not records:
        raise UsageError(f"no programs are kept in {output / FOLDER}; run with --generate and without --rebuild first")
    return records


def _read(path: Path) -> list[ProgramRecord]:
    if not path.is_file():
        return []
    return list(parse_whole_lines(_RECORD, path.read_bytes(), path))


def _write(path: Path, records: Iterable[ProgramRecord] | Sequence[ProgramRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, b"".join(_RECORD.dump_json(record) + b"\n" for record in records))
