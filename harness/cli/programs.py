"""`harness quality smollm2 --generate`: programs written greedily and run against tests."""

import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.table import Table

from harness.cli.fidelity import FidelityRequest, check_kept, log_evaluation, say_written, saying, smollm2
from harness.errors import UsageError
from harness.fidelity.program_table import PassMean, percent, rebuild_programs

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["programs"]

TASK = "mbpp"
ROWS = {"cpu": 16, "cuda": 512}


def programs(request: FidelityRequest) -> int:
    """The exit code, after writing and judging what is missing, and the tables of all records.

    Raises:
        UsageError: the family or a task has no tests for programs.
    """
    if request.family != "smollm2" or not {*request.tasks} <= {TASK}:
        asked = ", ".join(request.tasks) or request.family
        raise UsageError(f"--generate runs programs against tests, which only smollm2's task {TASK} has, got {asked}")
    done = request.rebuild or _evaluate(replace(request, tasks=(TASK,)), time.monotonic())
    if not done and not any((request.output / "programs").glob("*.jsonl")):
        raise UsageError(f"nothing was judged within {request.time_limit_s:g} s; call again, or give more time")
    means = rebuild_programs(request.output)
    if request.as_json:
        sys.stdout.write((request.output / "programs.json").read_text())
        return 0
    say_written(_table(means), request.output / "programs.json", done=done)
    return 0


def _evaluate(request: FidelityRequest, started: float) -> bool:
    """Whether every arm is judged."""
    import torch

    from harness.fidelity.arms import arms_of
    from harness.fidelity.evaluate import experts_of
    from harness.fidelity.programs import PROGRAM_ARMS, ProgramOptions, evaluate_programs
    from harness.fidelity.smollm2 import Smollm2
    from meswitch.cli.family import check_device
    from meswitch.codecs import parse_codec
    from meswitch.families.smollm2.tasks import load_task
    from workloads.sandbox import judge

    check_device(request.device)
    check_kept(request, folder="programs")
    # before a base is fetched: each codec once and known, and programs can be run here
    arms_of(request.codecs)
    for spec in request.codecs:
        parse_codec(spec)
    judge("", ["pass"])
    with saying() as report:
        family, tasks, seeds = smollm2(request, report)
        assert isinstance(family, Smollm2)
        assert request.data is not None
        problems = {task: load_task(task, request.data, seed=0).test[: request.n] for task in tasks}
        options = ProgramOptions(
            output=request.output,
            experts=experts_of(tasks, seeds, request.experts),
            specs=request.codecs or PROGRAM_ARMS,
            rows=ROWS[request.device],
            processes=request.processes or os.cpu_count() or 1,
            deadline_s=request.deadline_s(started),
        )
        log_evaluation(request, options.experts, folder="programs")
        torch.set_float32_matmul_precision("high")
        return evaluate_programs(family, problems, options, report)


def _table(means: "Sequence[PassMean]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("programs", "bits", "pass@1, % [95 % CI]", "points lost [95 % CI]", "n"):
        table.add_column(heading, justify="left" if heading == "programs" else "right", overflow="fold")
    for mean in means:
        bits = "–" if mean.bits_per_weight is None else f"{mean.bits_per_weight:.3f}"
        table.add_row(
            f"{mean.task} {mean.arm}", bits, percent(mean.pass_at_1), percent(mean.lost), f"{mean.seeds} × {mean.n}"
        )
    return table
