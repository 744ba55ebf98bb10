"""What each ingredient of a method is worth: tables in which one thing at a time is changed, beside a reference.

Each arm is compared over the experts that have both it and the reference: ingredients may be measured on fewer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from harness.fidelity.allocated import Allocated, Way
from harness.fidelity.means import REFERENCE, Expert, group_of
from harness.fidelity.rebuild import FidelityReport, by_expert
from harness.fidelity.scores import read_records
from harness.fidelity.tables import interval, lost, shown_label
from harness.results import write_atomic
from harness.summary import Estimate

__all__ = ["ABLATIONS", "Ablation", "AblationRow", "ablations_of", "rebuild_ablations"]

UNBIASED = "salient:bits=2,channels=8,step=unbiased"
PLAIN = "rtn:bits=2,step=unbiased"
FOUR, EIGHT = "sparse-sign:group=4", "sparse-sign:group=8"

Experts = Mapping[tuple[str, int], Expert]
Variants = tuple[tuple[str, str], ...]

WAYS: tuple[tuple[str, Way], ...] = (
    ("least errors of weights", "plain"),
    ("least errors of outputs", "weighted"),
    ("least KL, measured linear by linear", "measured"),
    ("search by KL", "search"),
)

TRAINED_AT = 0.8


def _spent(bits: float, alike: str) -> tuple[str, str, Variants]:
    """The table of one budget, from one codec for all linears that keeps it on smollm2."""
    variants = tuple((words, Allocated(bits=bits, by=by).spec) for words, by in WAYS)
    if bits == TRAINED_AT:
        variants += (("search by KL, trained steps", f"{Allocated(bits=bits, by='search').spec} distilled=rows"),)
    return f"What is chosen for each linear, {bits:g} bits", alike, variants


ABLATIONS: tuple[tuple[str, str, Variants], ...] = (
    (
        "The paper's codes, an ingredient at a time",
        REFERENCE,
        (
            ("trained steps", f"{REFERENCE} distilled=rows"),
            ("no salient channels", "rtn:bits=2,step=mse"),
            ("no salient channels, steps by the largest value", "rtn:bits=2,step=absmax"),
            ("steps unbiased", UNBIASED),
            ("1 bit", "salient:bits=1,channels=8,step=mse"),
            ("1 bit, one step for a matrix, no salient channels", "bitdelta"),
        ),
    ),
    (
        "Which channels are salient",
        UNBIASED,
        (
            ("at random", "salient:bits=2,channels=8,select=random"),
            ("by the delta's magnitude", "salient:bits=2,channels=8,select=magnitude"),
            ("by Wanda's score", "salient:bits=2,channels=8,select=wanda"),
            ("by activations", "salient:bits=2,channels=8,select=activation"),
            ("codes not fitted again", "salient:bits=2,channels=8,refit=false"),
            ("none", PLAIN),
        ),
    ),
    (
        "How many channels are salient, and bits",
        UNBIASED,
        (
            ("no channels", PLAIN),
            ("4 channels", "salient:bits=2,channels=4"),
            ("16 channels", "salient:bits=2,channels=16"),
            ("1 bit", "salient:bits=1,channels=8,step=unbiased"),
            ("4 bits", "salient:bits=4,channels=8,step=unbiased"),
            ("trained steps", f"{UNBIASED} distilled=rows"),
        ),
    ),
    (
        "Positions and signs in groups of 4",
        FOUR,
        (
            ("least-squares steps", f"{FOUR},step=mse"),
            ("positions by activations", f"{FOUR},pick=wanda"),
            ("8 salient channels", f"{FOUR},channels=8"),
            ("two codes of a group", f"{FOUR},keep=2"),
            ("groups of 8", EIGHT),
            ("groups of 16", "sparse-sign:group=16"),
            ("signs everywhere", "rtn:bits=1,step=unbiased"),
            ("trained steps", f"{FOUR} distilled=rows"),
            ("trained codes", f"{FOUR} distilled=codes"),
        ),
    ),
    (
        "Positions and signs in groups of 8",
        EIGHT,
        (
            ("least-squares steps", f"{EIGHT},step=mse"),
            ("positions by activations", f"{EIGHT},pick=wanda"),
            ("4 salient channels", f"{EIGHT},channels=4"),
            ("8 salient channels", f"{EIGHT},channels=8"),
            ("two codes of a group", f"{EIGHT},keep=2"),
            ("trained steps", f"{EIGHT} distilled=rows"),
            ("trained codes", f"{EIGHT} distilled=codes"),
        ),
    ),
    _spent(0.55, EIGHT),
    _spent(0.8, FOUR),
    _spent(1.0, f"{FOUR},channels=8"),
    _spent(2.25, UNBIASED),
)
"""A title, an arm, and arms that differ from it in one ingredient, with that ingredient in words. All at gain 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationRow:
    """One arm of a table.

    Attributes:
        change: what differs from the reference, in words; empty for the reference itself.
        experts: that have both.
        kl_ratio: its KL over the reference's, over the same resamples; `None` for the reference.
    """

    change: str
    arm: str
    experts: int
    bits_per_weight: float | None
    kl: Estimate
    kl_ratio: Estimate | None
    agreement: Estimate
    accuracy_change: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One table: the reference first, then those of its variants that were measured."""

    title: str
    rows: tuple[AblationRow, ...]


_ABLATIONS = TypeAdapter(tuple[Ablation, ...])


def rebuild_ablations(output: Path, report: FidelityReport) -> tuple[Ablation, ...]:
    """The tables of all records below `output`; writes `ablations.json` and `ablations.md` there.

    Args:
        report: of the same records, which says whose accuracy counts.

    Raises:
        RunFormatError: a record is damaged.
        UsageError: there are none.
    """
    scored = {task.task for task in report.tasks if task.scored}
    experts = {place: found for place, found in by_expert(read_records(output)).items() if place[0] in scored}
    found = ablations_of(experts)
    write_atomic(output / "ablations.json", _ABLATIONS.dump_json(found, indent=1) + b"\n")
    write_atomic(output / "ablations.md", markdown(report.family, report.methods["interval"], found).encode())
    return found


def ablations_of(experts: Experts, ablations: Sequence[tuple[str, str, Variants]] = ABLATIONS) -> tuple[Ablation, ...]:
    """The tables of which any expert has the reference and a variant."""
    found = []
    for title, reference, variants in ablations:
        named = (("", reference), *variants)
        rows = [row for change, arm in named if (row := row_of(experts, change, arm, reference)) is not None]
        if len(rows) > 1:
            found.append(Ablation(title=title, rows=tuple(rows)))
    return tuple(found)


def row_of(experts: Experts, change: str, arm: str, reference: str) -> AblationRow | None:
    """One arm over the experts that have it and its reference; `None` if there are none."""
    wanted = [(name, 1.0) for name in dict.fromkeys(("base", "expert", reference, arm))]
    having = {place: found for place, found in experts.items() if all(key in found for key in wanted)}
    # these arms alone, so that no others have to be resampled
    group = group_of(
        {place: {key: found[key] for key in wanted} for place, found in having.items()}, list(having), half=False
    )
    places = {mean.arm: i for i, mean in enumerate(group.means)}
    if arm not in places:
        return None
    mean = group.means[places[arm]]
    return AblationRow(
        change=change,
        arm=arm,
        experts=mean.experts,
        bits_per_weight=mean.bits_per_weight,
        kl=mean.kl,
        kl_ratio=None if arm == reference else group.draws["kl"].ratio(places[arm], places[reference]),
        agreement=mean.agreement,
        accuracy_change=mean.accuracy_change,
    )


def markdown(family: str, how: str, ablations: Sequence[Ablation]) -> str:
    """All tables."""
    parts = [
        f"# {family}: what each ingredient is worth",
        "Made by `harness quality` from `records/`; `--rebuild` makes it again. One thing at a time differs from the "
        "first row of each table. Ratios are paired, over the experts that have both; where they are not all, the KL "
        f"of the first row is of others too. Intervals: {how}.",
    ]
    for ablation in ablations:
        lines = [
            "| changed | arm | bits | KL [95 %] | KL ÷ first row [95 %] | agreement | points lost [95 %] | experts |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in ablation.rows:
            cells = (
                row.change or "–",
                shown_label(row.arm),
                "–" if row.bits_per_weight is None else f"{row.bits_per_weight:.3f}",
                interval(row.kl, ".5f"),
                "1" if row.kl_ratio is None else interval(row.kl_ratio, ".2f"),
                f"{row.agreement.value:.4f}",
                interval(lost(row.accuracy_change), ".2f"),
                str(row.experts),
            )
            lines.append(f"| {' | '.join(cells)} |")
        parts += [f"## {ablation.title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"
