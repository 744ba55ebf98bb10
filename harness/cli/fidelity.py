"""`harness quality smollm2`, and `harness quality FAMILY --likelihood`."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.errors import UsageError
from harness.evaluation_log import Evaluation, add_evaluation, refuse_other_config
from harness.fidelity.arms import arms_of
from harness.fidelity.means import label_of
from harness.fidelity.rebuild import FidelityReport, rebuild_fidelity
from harness.provenance import collect_provenance, python_command
from harness.results import to_json_object, write_atomic
from harness.telemetry import open_gpu

if TYPE_CHECKING:
    from harness.fidelity.evaluate import Family

__all__ = ["FidelityRequest", "fidelity"]

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 16384}
VALIDATION_ITEMS, CALIBRATION_ITEMS = 64, 128
SMOLLM2_CALIBRATION_ITEMS = 4096
"""Some tasks' answers have three tokens: what is trained on 128 of them fits these items alone."""
COMPARED = {"family": "of family {}", "n": "of {} problems a task", "steps_scale": "of --steps-scale {}"}
"""What all records of a folder share, and how it is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRequest:
    """The command's arguments, as they were given."""

    family: str
    output: Path
    codecs: tuple[str, ...]
    groups: tuple[str, ...]
    tasks: tuple[str, ...]
    experts: tuple[str, ...]
    n: int
    seeds: int
    data: Path | None
    device: str
    time_limit_s: float | None
    wheel: Path | None
    commit: str | None
    steps_scale: float
    processes: int | None
    rebuild: bool
    as_json: bool

    def deadline_s(self, started_s: float) -> float:
        """When a call that began at `started_s` begins nothing more, on the same clock."""
        return float("inf") if self.time_limit_s is None else started_s + self.time_limit_s


def fidelity(request: FidelityRequest) -> int:
    """The exit code, after scoring what is missing and writing tables and figure from all records."""
    started = time.monotonic()
    done = request.rebuild or evaluate(request, started)
    if not done and not any((request.output / "records").glob("*.jsonl*")):
        raise UsageError(f"nothing was scored within {request.time_limit_s:g} s; call again, or give more time")
    report = rebuild_fidelity(request.output)
    publish(report, request.output)
    if request.as_json:
        sys.stdout.write((request.output / "quality.json").read_text())
        return 0
    say_written(means_table(report), request.output / "quality.json", done=done)
    return 0


def say_written(table: Table, path: Path, *, done: bool) -> None:
    """Show `table`, where all of it is, and whether there is more to measure."""
    console = Console()
    console.print(table)
    console.print(f"written {path}", highlight=False, soft_wrap=True)
    if not done:
        console.print("the time limit cut it short: call again to go on", highlight=False)


def publish(report: FidelityReport, output: Path) -> None:
    """Write the tables and the rate–distortion figure beside the figures that they show."""
    from harness.fidelity.ablations import rebuild_ablations
    from harness.fidelity.chosen import rebuild_chosen
    from harness.fidelity.tables import figure_table, how_many, markdown
    from reports.figures.rate_distortion import draw_rate_distortion
    from reports.figures.svg import save
    from reports.figures.theme import drawing

    write_atomic(output / "tables.md", markdown(report).encode())
    rebuild_ablations(output, report)
    rebuild_chosen(output)
    figures = {
        "rate-distortion": (report.means or report.by_likelihood, "all seeds"),
        "rate-distortion-more-arms": (report.more_arms, f"more arms, {how_many(report.more_arms)}"),
    }
    with drawing():
        for name, (means, words) in figures.items():
            figure = draw_rate_distortion(figure_table(means), title=f"{report.family}, codecs at gain 1, {words}")
            if figure is not None:
                save(figure, output / name)


def evaluate(request: FidelityRequest, started: float) -> bool:
    """Whether every arm is scored."""
    import torch

    from harness.fidelity.evaluate import FidelityOptions, evaluate_fidelity, experts_of
    from meswitch.cli.family import check_device

    check_device(request.device)
    check_kept(request)
    # before a base is fetched
    arms = arms_of(request.codecs, request.groups)
    with saying() as report:
        family, tasks, seeds = (smollm2 if request.family == "smollm2" else bundled)(request, report)
        options = FidelityOptions(
            output=request.output,
            experts=experts_of(tasks, seeds, request.experts),
            arms=arms,
            deadline_s=request.deadline_s(started),
            tokens_per_batch=TOKENS_PER_BATCH[request.device],
        )
        log_evaluation(request, options.experts)
        # on a GPU the factors of float32 products may be rounded to 10 bits: finer than any codec here
        torch.set_float32_matmul_precision("high")
        return evaluate_fidelity(family, options, report)


Source = tuple["Family", Sequence[str], Sequence[int]]


def smollm2(request: FidelityRequest, report: Callable[[str], None]) -> Source:
    """The smollm2 family, its tasks and seeds.

    Raises:
        UsageError: no data directory was given.
        FamilyError: a task is unknown, or one of its files is missing.
    """
    from harness.fidelity.smollm2 import Smollm2, Smollm2Options
    from meswitch.families.smollm2.tasks import HARD_TASKS, SCORED_TASKS, check_files
    from meswitch.home import home_dir

    if request.data is None:
        raise UsageError("smollm2 needs its tasks' files; give their directory with --data (docs/quality.md)")
    tasks = request.tasks or (*SCORED_TASKS, *HARD_TASKS)
    for task in tasks:
        check_files(task, request.data)
    options = Smollm2Options(
        data=request.data,
        home=home_dir(),
        wheel=request.wheel,
        device=request.device,
        n=request.n,
        n_validation=VALIDATION_ITEMS,
        n_calibration=SMOLLM2_CALIBRATION_ITEMS,
        steps_scale=request.steps_scale,
    )
    return Smollm2(options, report), tasks, range(request.seeds)


def bundled(request: FidelityRequest, report: Callable[[str], None]) -> Source:
    """A family on the disk, its experts, and the seed of its test problems."""
    from harness.fidelity.pocket import DiskFamily
    from meswitch.home import home_dir

    family = DiskFamily(
        request.family,
        home_dir(),
        device=request.device,
        n=request.n,
        n_held_out=CALIBRATION_ITEMS,
        report=report,
    )
    return family, request.tasks or family.experts, (0,)


def check_kept(request: FidelityRequest, *, folder: str = "records") -> None:
    """Refuse a call whose records would not be of the items, or the experts, of those that are kept.

    Raises:
        UsageError: with what differs.
    """
    asked: dict[str, JsonValue] = {"family": request.family, "n": request.n, "steps_scale": request.steps_scale}
    refuse_other_config(request.output / folder, asked, COMPARED)


def log_evaluation(request: FidelityRequest, experts: Sequence[tuple[str, int]], *, folder: str = "records") -> None:
    """Note who measures what beside its records, before it is measured."""
    config = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    with closing(open_gpu()) as gpu:
        provenance = to_json_object(collect_provenance(gpu, commit=request.commit))
    evaluation = Evaluation(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(python_command()),
        config=to_json_object(config),
        provenance=provenance,
        keys=tuple(f"{task}-{seed}" for task, seed in experts),
    )
    add_evaluation(request.output / folder, evaluation)


@contextmanager
def saying() -> Iterator[Callable[[str], None]]:
    """One line on stderr that says what is done now; lines of their own, with times, where there is no terminal."""
    console, started = Console(stderr=True), time.monotonic()
    if not console.is_terminal:
        yield lambda words: console.print(
            f"{time.monotonic() - started:7.1f} s  {words}", highlight=False, markup=False, soft_wrap=True
        )
        return
    with console.status("preparing") as status:
        yield lambda words: status.update(escape(words))


def means_table(report: FidelityReport) -> Table:
    """Arms over all scored tasks; over the others if none is scored."""
    from meswitch.codecs import shown_spec

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("arm", "bits", "KL [95 % CI]", "agreement", "right", "points lost [95 % CI]"):
        table.add_column(heading, justify="left" if heading == "arm" else "right", overflow="fold")
    for mean in report.means or report.by_likelihood:
        name = label_of(mean.arm, mean.gain)
        change = mean.accuracy_change
        table.add_row(
            escape(shown_spec(name) if name == mean.arm else name),
            "–" if mean.bits_per_weight is None else f"{mean.bits_per_weight:.3f}",
            f"{mean.kl.value:.4f} [{mean.kl.low:.4f}, {mean.kl.high:.4f}]",
            f"{mean.agreement.value:.4f}",
            f"{100 * mean.accuracy.value:.1f} %",
            f"{-100 * change.value + 0.0:.2f} [{-100 * (change.high or 0):.2f}, {-100 * (change.low or 0):.2f}]",
        )
    return table
