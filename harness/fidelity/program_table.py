"""`programs.json` and `programs.md` from the kept programs alone: the same records give the same bytes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from harness.errors import RunFormatError
from harness.fidelity.bootstrap import RESAMPLES
from harness.fidelity.program_records import ProgramRecord, read_programs
from harness.results import write_atomic
from harness.summary import Estimate
from meswitch.codecs import parse_codec
from workloads.sandbox import OUTCOMES

__all__ = ["PassMean", "ProgramRow", "percent", "programs_markdown", "rebuild_programs"]

Floats = NDArray[np.float64]
CONTROLS = ("reference", "base", "expert")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRow:
    """One arm of one expert; shares are of 1, counts of its `n` programs."""

    family: str
    task: str
    seed: int
    codec: str
    options: Mapping[str, str | int | float | bool] | None
    bits_per_weight: float | None
    expert_bytes: int | None
    pass_base: float
    pass_expert: float
    pass_at_1: float
    passed: int
    failed: int
    timeout: int
    memory: int
    error: int
    n: int
    isolated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PassMean:
    """One arm over a task's experts, with 95 % intervals over problems and seeds, the same draws for all arms.

    Attributes:
        lost: share that the expert passes less share that the arm passes.
        outcomes: programs of all seeds by their outcome.
    """

    task: str
    arm: str
    seeds: int
    n: int
    bits_per_weight: float | None
    pass_at_1: Estimate
    lost: Estimate
    outcomes: Mapping[str, int]


_ROWS = TypeAdapter(tuple[ProgramRow, ...])


def rebuild_programs(output: Path) -> tuple[PassMean, ...]:
    """The means of all records below `output`; writes `programs.json` and `programs.md` there.

    Raises:
        RunFormatError: a record is damaged, or an expert's or base's own is missing.
        UsageError: there are none.
    """
    records = read_programs(output)
    by_expert: dict[tuple[str, int], dict[str, ProgramRecord]] = {}
    for record in records:
        by_expert.setdefault((record.task, record.seed), {})[record.arm] = record
    for (task, seed), found in by_expert.items():
        for end in ("base", "expert"):
            if end not in found:
                raise RunFormatError(f"the programs of {end} are missing for {task}-{seed}; run with --generate again")
    rows = tuple(row_of(record, by_expert[record.task, record.seed]) for record in records)
    means = tuple(
        mean
        for task in dict.fromkeys(task for task, _ in by_expert)
        for mean in means_of(task, [found for (name, _), found in by_expert.items() if name == task])
    )
    write_atomic(output / "programs.json", _ROWS.dump_json(rows, indent=1) + b"\n")
    write_atomic(output / "programs.md", programs_markdown(means).encode())
    return means


def row_of(record: ProgramRecord, expert: Mapping[str, ProgramRecord]) -> ProgramRow:
    """One record as its row."""
    counts = Counter(record.outcomes)
    codec = None if record.arm in CONTROLS else parse_codec(record.arm)
    return ProgramRow(
        family=record.family,
        task=record.task,
        seed=record.seed,
        codec=record.arm if codec is None else codec.name,
        options=None if codec is None else codec.options,
        bits_per_weight=record.bits_per_weight,
        expert_bytes=record.expert_bytes,
        pass_base=float(passed(expert["base"]).mean()),
        pass_expert=float(passed(expert["expert"]).mean()),
        pass_at_1=float(passed(record).mean()),
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        n=len(record.outcomes),
        isolated=record.isolated,
    )


def passed(record: ProgramRecord) -> Floats:
    """1 for each problem that is solved, else 0."""
    return np.asarray([outcome == "passed" for outcome in record.outcomes], dtype=np.float64)


def means_of(task: str, experts: Sequence[Mapping[str, ProgramRecord]]) -> list[PassMean]:
    """The arms that all experts of a task have, fewest bits first after the controls."""
    arms = [arm for arm in experts[0] if all(arm in expert for expert in experts)]
    arms.sort(key=lambda arm: (arm not in CONTROLS, experts[0][arm].bits_per_weight or 0.0))
    if len({len(record.outcomes) for expert in experts for record in expert.values()}) > 1:
        raise RunFormatError(f"the experts of {task} were asked different numbers of problems; run --generate again")
    # [seeds, arms, problems]
    scores = np.asarray([[passed(expert[arm]) for arm in arms] for expert in experts])
    drawn = draws_of(scores)
    value = scores.mean(axis=(0, 2))
    own = arms.index("expert")
    return [
        PassMean(
            task=task,
            arm=arm,
            seeds=len(experts),
            n=scores.shape[2],
            bits_per_weight=experts[0][arm].bits_per_weight,
            pass_at_1=estimate(value[i], drawn[:, i]),
            lost=estimate(value[own] - value[i], drawn[:, own] - drawn[:, i]),
            outcomes=Counter(outcome for expert in experts for outcome in expert[arm].outcomes),
        )
        for i, arm in enumerate(arms)
    ]


def draws_of(scores: Floats, *, seed: int = 0) -> Floats:
    """Means `[RESAMPLES, arms]` of `scores` `[seeds, arms, problems]` with problems and seeds drawn again."""
    generator = np.random.default_rng(seed)
    seeds, _, n = scores.shape
    problems = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    chosen = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    return np.asarray(np.einsum("rs,rn,san->ra", chosen, problems, scores, optimize=True))


def estimate(value: float, drawn: Floats) -> Estimate:
    """A value with its 95 % interval."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value=float(value), low=float(low), high=float(high))


def programs_markdown(means: Sequence[PassMean]) -> str:
    """The means as a Markdown table."""
    lines = [
        "| task | arm | bits | pass@1, % [95 %] | points lost [95 %] | failed | timeout | memory | error | programs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for mean in means:
        cells = (
            mean.task,
            f"`{mean.arm}`",
            "–" if mean.bits_per_weight is None else f"{mean.bits_per_weight:.3f}",
            percent(mean.pass_at_1),
            percent(mean.lost),
            *(str(mean.outcomes.get(outcome, 0)) for outcome in OUTCOMES if outcome != "passed"),
            f"{mean.seeds} × {mean.n}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def percent(found: Estimate) -> str:
    """A share with its ends in points."""
    value, low, high = (f"{100 * (share or 0.0) + 0.0:.1f}" for share in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"
