"""How many answers are still right under a codec: rows recomputed from the kept answers of every model.

A *unit* is one model on one task's test problems: the base, an uncompressed expert, or an expert under one codec. Its
file holds one header line and one line for each problem.
"""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.errors import RunFormatError, UsageError
from harness.evaluation_log import Evaluation
from harness.results import write_atomic
from harness.statistics import METHODS, paired_share_difference, share
from harness.summary import Estimate

__all__ = [
    "UNIT_SUFFIX",
    "Item",
    "Model",
    "QualityMean",
    "QualityReport",
    "QualityRow",
    "Unit",
    "UnitHeader",
    "dump_quality",
    "quality_report",
    "read_header",
    "read_units",
    "write_unit",
]

SCHEMA = "harness-quality/1"
UNIT_SUFFIX = ".jsonl.gz"

Model = Literal["base", "expert", "codec"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitHeader:
    """Which model answered which problems.

    Attributes:
        model: what answered; `codec` and the fields after it are only of `model="codec"`.
        key: hash of everything the answers depend on.
        weights_hash: over the uncompressed base, experts and router.
        codec: its spec with all options; options: the same as values.
        bits_per_weight: of the linear weights; bits_per_weight_whole: embedding, head and exact parameters too.
        expert_bytes: of the whole compressed expert; expert_bytes_linears: of its linear weights.
        model_bytes: of the whole model, as its checkpoint.
    """

    schema: str = SCHEMA
    key: str
    family: str
    expert: str
    task: str
    seed: int
    n: int
    model: Model
    weights_hash: str | None = None
    codec: str | None = None
    codec_name: str | None = None
    options: Mapping[str, str | int | float | bool] | None = None
    bits_per_weight: float | None = None
    bits_per_weight_whole: float | None = None
    expert_bytes: int | None = None
    expert_bytes_linears: int | None = None
    model_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One problem and what the model answered."""

    index: int
    prompt: str
    expected: str
    output: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Unit:
    """A header and its items, in order of their index."""

    header: UnitHeader
    items: tuple[Item, ...]

    @property
    def accuracy(self) -> Estimate:
        """Share of right answers."""
        estimate = share(sum(item.correct for item in self.items), len(self.items))
        assert estimate is not None
        return estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """One codec on one task. `difference` is to the uncompressed expert, over the same problems."""

    family: str
    task: str
    expert: str
    seed: int
    n: int
    codec: str
    codec_name: str
    options: Mapping[str, str | int | float | bool]
    bits_per_weight: float
    bits_per_weight_whole: float
    expert_bytes: int
    expert_bytes_linears: int
    model_bytes: int
    accuracy_base: Estimate | None
    accuracy_expert: Estimate
    accuracy: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityMean:
    """One codec over all tasks; every problem counts alike."""

    codec: str
    tasks: int
    n: int
    bits_per_weight: float
    expert_bytes: float
    accuracy_base: float | None
    accuracy_expert: float
    accuracy: float
    difference: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """All rows of a family, their means, and the evaluations that gave the answers."""

    schema: str = SCHEMA
    family: str
    weights_hash: str | None
    seed: int
    evaluations: tuple[Evaluation, ...]
    rows: tuple[QualityRow, ...]
    means: tuple[QualityMean, ...]
    methods: Mapping[str, str]


_HEADER, _ITEM, _REPORT = TypeAdapter(UnitHeader), TypeAdapter(Item), TypeAdapter(QualityReport)


def write_unit(path: Path, unit: Unit) -> None:
    """Write a unit, whole or not at all. Equal units give equal bytes."""
    parts: list[UnitHeader | Item] = [unit.header, *unit.items]
    lines = [json.dumps(asdict(part), ensure_ascii=False) for part in parts]
    # no time in the gzip header
    write_atomic(path, gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


def read_header(path: Path) -> UnitHeader | None:
    """The header of a unit; `None` if there is no unit or it is damaged."""
    try:
        with gzip.open(path) as file:
            return _HEADER.validate_json(file.readline())
    except (OSError, EOFError, ValidationError):
        return None


def read_units(folder: Path) -> list[Unit]:
    """All units below `folder`, in order of their paths.

    Raises:
        RunFormatError: one is damaged.
        UsageError: there are none.
    """
    units = []
    for path in sorted(folder.rglob(f"*{UNIT_SUFFIX}")):
        try:
            header, *items = gzip.decompress(path.read_bytes()).splitlines()
            units.append(Unit(_HEADER.validate_json(header), tuple(_ITEM.validate_json(line) for line in items)))
        except (OSError, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RunFormatError(f"{path}: not a unit of answers: {reason}") from error
    if not units:
        raise UsageError(f"no answers are kept in {folder}; run harness quality without --rebuild first")
    return units


def quality_report(units: Iterable[Unit], evaluations: Sequence[Evaluation] = ()) -> QualityReport:
    """The rows of all codec units beside their base and expert units, and the means over tasks.

    Raises:
        RunFormatError: the expert's own answers to a codec's problems are missing, or the answers are of several
            versions of the family.
    """
    units = list(units)
    if len({unit.header.weights_hash for unit in units}) > 1:
        raise RunFormatError("the kept answers are of several versions of the family; run harness quality again")
    base = {_place(u): u for u in units if u.header.model == "base"}
    experts = {_place(u): u for u in units if u.header.model == "expert"}
    # the codec with the most bits first, whatever the files are called
    compressed = [u for u in units if u.header.model == "codec"]
    compressed.sort(key=lambda u: (-(u.header.bits_per_weight or 0), u.header.codec or "", u.header.expert))
    rows = []
    for unit in compressed:
        expert = experts.get(_place(unit))
        if expert is None:
            raise RunFormatError(f"the answers of the uncompressed expert {unit.header.expert} are missing")
        rows.append(_row(unit, expert, base.get(_place(unit))))
    header = units[0].header
    return QualityReport(
        family=header.family,
        weights_hash=header.weights_hash,
        seed=header.seed,
        evaluations=tuple(evaluations),
        rows=tuple(rows),
        means=tuple(
            _mean(
                [row for row in rows if row.codec == codec],
                [(u, experts[_place(u)]) for u in compressed if u.header.codec == codec],
            )
            for codec in dict.fromkeys(row.codec for row in rows)
        ),
        methods={
            "interval": METHODS["share_interval"],
            "difference_interval": "bootstrap over problems, the same in both models, 2000 resamples, seed 0; "
            "where no verdict differs, Wilson's bound on the share that would",
        },
    )


def dump_quality(report: QualityReport) -> bytes:
    """The report as indented JSON. Equal reports give equal bytes."""
    return _REPORT.dump_json(report, indent=2) + b"\n"


def _place(unit: Unit) -> tuple[str, str, str, int, int]:
    header = unit.header
    return header.family, header.expert, header.task, header.seed, header.n


def _row(unit: Unit, expert: Unit, base: Unit | None) -> QualityRow:
    header = unit.header
    return QualityRow(
        family=header.family,
        task=header.task,
        expert=header.expert,
        seed=header.seed,
        n=len(unit.items),
        codec=_given(header.codec),
        codec_name=_given(header.codec_name),
        options=_given(header.options),
        bits_per_weight=_given(header.bits_per_weight),
        bits_per_weight_whole=_given(header.bits_per_weight_whole),
        expert_bytes=_given(header.expert_bytes),
        expert_bytes_linears=_given(header.expert_bytes_linears),
        model_bytes=_given(header.model_bytes),
        accuracy_base=base.accuracy if base else None,
        accuracy_expert=expert.accuracy,
        accuracy=unit.accuracy,
        difference=_difference([(unit, expert)]),
    )


def _mean(rows: Sequence[QualityRow], pairs: Sequence[tuple[Unit, Unit]]) -> QualityMean:
    n = sum(row.n for row in rows)
    bases = [row.accuracy_base for row in rows]
    known = [base.value * row.n for base, row in zip(bases, rows, strict=True) if base is not None]
    return QualityMean(
        codec=rows[0].codec,
        tasks=len(rows),
        n=n,
        bits_per_weight=sum(row.bits_per_weight for row in rows) / len(rows),
        expert_bytes=sum(row.expert_bytes for row in rows) / len(rows),
        accuracy_base=sum(known) / n if len(known) == len(rows) else None,
        accuracy_expert=sum(row.accuracy_expert.value * row.n for row in rows) / n,
        accuracy=sum(row.accuracy.value * row.n for row in rows) / n,
        difference=_difference(pairs),
    )


def _difference(pairs: Sequence[tuple[Unit, Unit]]) -> Estimate:
    ours = [item.correct for unit, _ in pairs for item in unit.items]
    theirs = [item.correct for _, expert in pairs for item in expert.items]
    estimate = paired_share_difference(ours, theirs, independent=True)
    assert estimate is not None
    return estimate


def _given(value: T | None) -> T:
    if value is None:
        raise RunFormatError("a unit of a codec must name its codec, options and bytes")
    return value
