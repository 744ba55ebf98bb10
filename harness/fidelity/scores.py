"""What is kept of every item under every arm, and the file that holds it: the raw records of `harness quality`.

One file for each expert, `records/<task>-<seed>.jsonl`, one line for each arm: its description, then a number for each
item. Lines are added as they are measured; a torn last line is ignored, and its arm measured again.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from harness.errors import RunFormatError, UsageError
from harness.results import parse_whole_lines, write_atomic

__all__ = [
    "Chosen",
    "Record",
    "append_record",
    "keep_records",
    "pack_records",
    "read_file",
    "read_records",
    "record_path",
]

SCHEMA = "harness-fidelity/1"
FOLDER = "records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search for codecs: its generations, and KL of a token of so many calibration items, before and after it."""

    generations: int
    items: int
    start: float
    found: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The codec of each linear, where they are not all the same.

    Attributes:
        codecs: specs by parameter name.
        search: `None` where errors were added up.
    """

    codecs: Mapping[str, str]
    search: Search | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One arm's scores on one expert's test items, in the items' order.

    Attributes:
        expert_hash: of the expert's weights: only records of the same weights belong together.
        arm: the arm's name; codec, options: of its codec, `None` of a control.
        gain: the factor of the described delta; gain_matched: whether it was chosen on validation items.
        distilled: over what gains were trained: `rows` or `matrix`.
        half: whether the expert is the one after half of its training.
        bits_per_weight: of the linear weights; expert_bytes: those, and all other parameters in 16 bits.
        tokens: answer tokens of each item, its end included.
        nll: summed over the item's tokens, in nats; kl: the same of KL(expert ‖ arm).
        agree: tokens whose most probable successor is the expert's; right: whose most probable one is the answer's.
        chosen: codecs that were chosen for each linear.
    """

    schema: str = SCHEMA
    family: str
    task: str
    seed: int
    expert_hash: str
    arm: str
    codec: str | None
    options: Mapping[str, str | int | float | bool] | None
    gain: float
    gain_matched: bool
    distilled: str | None
    half: bool
    bits_per_weight: float | None
    expert_bytes: int | None
    tokens: tuple[int, ...]
    nll: tuple[float, ...]
    kl: tuple[float, ...]
    agree: tuple[int, ...]
    right: tuple[int, ...]
    chosen: Chosen | None = None

    @property
    def key(self) -> tuple[str, float | None]:
        """What tells it from the other records of its expert."""
        return self.arm, None if self.gain_matched else self.gain


_RECORD = TypeAdapter(Record)


def record_path(output: Path, task: str, seed: int) -> Path:
    """Where the records of an expert are kept while they are measured."""
    return output / FOLDER / f"{task}-{seed}.jsonl"


def append_record(path: Path, record: Record) -> None:
    """Add one record; numbers are kept to six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = asdict(record)
    for name in ("nll", "kl"):
        fields[name] = [float(f"{value:.6g}") for value in fields[name]]
    line = json.dumps(fields, separators=(",", ":")) + "\n"
    with path.open("ab") as file:
        end = file.tell()
        whole = path.read_bytes().rfind(b"\n") + 1
        # a line torn by an interruption must not swallow this one
        file.truncate(whole)
        file.seek(min(end, whole))
        file.write(line.encode())


def read_file(path: Path) -> list[Record]:
    """The records of one expert, plain or packed, the later one of equal keys; none if there is no file.

    Raises:
        RunFormatError: a line before the last is damaged.
    """
    packed = path.with_suffix(".jsonl.gz")
    found: dict[tuple[str, float | None], Record] = {}
    for place in (packed, path):
        if not place.is_file():
            continue
        try:
            content = gzip.decompress(place.read_bytes()) if place is packed else place.read_bytes()
        except (OSError, EOFError) as error:
            raise RunFormatError(f"{place}: not a file of records: {error}") from error
        found |= {record.key: record for record in parse_whole_lines(_RECORD, content, place)}
    return list(found.values())


def keep_records(path: Path, expert_hash: str) -> list[Record]:
    """The records of the expert with these weights; those of others, which it replaces, are dropped from the file."""
    records = read_file(path)
    kept = [record for record in records if record.expert_hash == expert_hash]
    if len(kept) < len(records):
        path.with_suffix(".jsonl.gz").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        for record in kept:
            append_record(path, record)
    return kept


def read_records(output: Path) -> list[Record]:
    """All records below `output`, in the order of their files.

    Raises:
        RunFormatError: one is damaged.
        UsageError: there are none.
    """
    stems = {path.name.split(".")[0] for path in (output / FOLDER).glob("*.jsonl*")}
    records = [r for stem in sorted(stems) for r in read_file(output / FOLDER / f"{stem}.jsonl")]
    if not records:
        raise UsageError(f"no records are kept in {output / FOLDER}; run harness quality without --rebuild first")
    return records


def pack_records(output: Path, experts: Iterable[tuple[str, int]]) -> None:
    """Compress the files of these experts. The same records give the same bytes."""
    for task, seed in experts:
        path = record_path(output, task, seed)
        if not path.is_file():
            continue
        lines = b"".join(_RECORD.dump_json(record) + b"\n" for record in read_file(path))
        # no time in the gzip header
        write_atomic(path.with_suffix(".jsonl.gz"), gzip.compress(lines, 9, mtime=0))
        path.unlink()
