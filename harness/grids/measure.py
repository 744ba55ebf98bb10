"""Scores the cells of a grid on every expert of a family, and keeps one row and one raw record for each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from harness.errors import UsageError
from harness.evaluation_log import refuse_other
from harness.fidelity.allocator import AllocationConfig, Allocator
from harness.fidelity.bench import Bench, Scores
from harness.fidelity.describe import stacks_of
from harness.fidelity.evaluate import Family
from harness.fidelity.moments import Moments, collect_moments
from harness.fidelity.subject import Subject, take_weights
from harness.flat_table import FlatRow, FlatTable
from harness.grids.cells import CANDIDATES, Cell, allocation_cells, base_cells, table_cells
from harness.grids.quantised import check_torchao
from harness.provenance import collect_provenance, python_command
from harness.telemetry import NullGpu
from meswitch.allocation import EvolutionConfig

__all__ = ["COLUMNS", "GRIDS", "KEY", "Grid", "GridOptions", "check_grid", "measure_grid"]

Grid = Literal["base", "tables", "allocation"]
GRIDS: tuple[Grid, ...] = get_args(Grid)

NAMED = ("base", "delta_of", "linear", "embedding", "head")
KEY = ("family", "task", "n", *NAMED)
COLUMNS = (*KEY, "bits_per_weight", "tokens", "kl", "agreement", "token_accuracy", "nll", "expert_hash")
TOKENS_PER_BATCH = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions:
    """What is measured.

    Attributes:
        grid: `base` × codec, embedding × head (`tables`), or ways to spend a budget (`allocation`).
        tasks: experts by their tasks; none stand for all.
        n: test items of each.
        bits: budgets of `allocation`, per linear weight.
        search: of `allocation`.
    """

    grid: Grid
    tasks: tuple[str, ...]
    n: int
    bits: tuple[float, ...] = (1.0,)
    search: EvolutionConfig = field(default_factory=EvolutionConfig)

    def of_tasks(self, tasks: Sequence[str]) -> "GridOptions":
        """The same for `tasks`, if none are named."""
        return self if self.tasks else replace(self, tasks=tuple(tasks))

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise UsageError(f"a grid must be one of {', '.join(GRIDS)}, got {self.grid!r}")
        if self.n < 1 or not self.bits or min(self.bits) <= 0:
            raise UsageError(f"--n and --bits must be positive, got {self.n} and {list(self.bits)}")


def check_grid(family: str, options: GridOptions, path: Path | None) -> None:
    """Refuse, before any work, what could not be measured here or does not belong to the table at `path`.

    Args:
        family: by its own name.
        options: with tasks.

    Raises:
        RunFormatError: the table is damaged.
        UsageError: it is of another family, number of items or budgets; or what quantises bases is not installed.
    """
    rows = FlatTable(path, columns=COLUMNS, key=KEY).rows
    if path is not None:
        refuse_other(path, {row["family"] for row in rows}, family, "of family {}")
        refuse_other(path, {row["n"] for row in rows}, options.n, "of {} items a task")
        if options.grid == "allocation" and rows:
            kept = {str(row["linear"]).partition(" bits")[0] for row in rows}
            asked = {f"{bits:g}" for bits in options.bits}
            refuse_other(path, [", ".join(sorted(kept))], ", ".join(sorted(asked)), "of --bits {}")
    if options.grid == "base" and not {*options.tasks} <= {row["task"] for row in rows}:
        check_torchao()


def measure_grid(family: Family, options: GridOptions, path: Path | None, say: Callable[[str], None]) -> list[FlatRow]:
    """The rows of the table at `path`, after measuring the tasks that it lacks.

    Raises:
        MeswitchError, HarnessError: a task is unknown, or the grid needs what is not installed.
    """
    table = FlatTable(path, columns=COLUMNS, key=KEY)
    measured = {(row["task"], row["n"]) for row in table.rows}
    for task in options.tasks:
        if (task, options.n) in measured:
            say(f"{task}: its rows are in {path}")
            continue
        say(f"{task}: measuring")
        subject = family.subject(task, 0)
        rows, items = [], []
        for cell, scores in scored(subject, options):
            rows.append(row_of(subject, cell, scores, options.n))
            items.append({**{name: getattr(cell, name) for name in NAMED}, **per_item(scores)})
        raw = {
            "task": task,
            "expert_hash": subject.expert_hash,
            "command": python_command(),
            "provenance": collect_provenance(NullGpu("scored on the CPU")),
            "cells": items,
        }
        table.add(rows, raw=raw)
    return table.rows


def scored(subject: Subject, options: GridOptions) -> Iterator[tuple[Cell, Scores]]:
    """Every cell of the grid with its scores on the test items."""
    moments = collect_moments(subject)
    untie(subject.model)
    test = bench_of(subject, options.n)
    for cell in cells_of(subject, options, moments):
        take_weights(subject.model, subject.expert)
        restore_head(subject)
        take_weights(subject.model, cell.weights)
        yield cell, test.score()


def cells_of(subject: Subject, options: GridOptions, moments: Moments) -> Iterator[Cell]:
    """The cells of the grid."""
    if options.grid == "base":
        yield from base_cells(subject, moments)
    elif options.grid == "tables":
        yield from table_cells(subject, moments)
    else:
        take_weights(subject.model, subject.expert)
        restore_head(subject)
        config = AllocationConfig(candidates=CANDIDATES, search=options.search)
        allocator = Allocator(subject, stacks_of(subject, moments), config, tokens_per_batch=TOKENS_PER_BATCH)
        for bits in options.bits:
            yield from allocation_cells(allocator, bits)


def untie(model: nn.Module) -> None:
    """Give the model a head of its own, so that head and embedding can differ."""
    head: nn.Module = model.lm_head  # type: ignore[assignment]
    assert isinstance(head.weight, torch.Tensor)
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def restore_head(subject: Subject) -> None:
    """The expert's own head, also where its weights hold it under the embedding's name alone."""
    head = subject.expert.get("lm_head.weight", subject.expert["model.embed_tokens.weight"])
    take_weights(subject.model, {"lm_head.weight": head})


def bench_of(subject: Subject, n: int) -> Bench:
    """The first `n` test items and what the expert makes of them."""
    take_weights(subject.model, subject.expert)
    restore_head(subject)
    return Bench(subject.model, subject.test[:n], tokens_per_batch=TOKENS_PER_BATCH)


def row_of(subject: Subject, cell: Cell, scores: Scores, n: int) -> FlatRow:
    """The published row of one cell on one expert."""
    tokens = int(scores.tokens.sum())
    return {
        "family": subject.family,
        "task": subject.task,
        "n": n,
        **{name: getattr(cell, name) for name in NAMED},
        "bits_per_weight": None if cell.bits_per_weight is None else round(cell.bits_per_weight, 4),
        "tokens": tokens,
        "kl": float(f"{scores.kl.sum() / tokens:.6g}"),
        "agreement": round(float(scores.agree.sum()) / tokens, 6),
        "token_accuracy": round(float(scores.right.sum()) / tokens, 6),
        "nll": float(f"{scores.nll.sum() / tokens:.6g}"),
        "expert_hash": subject.expert_hash,
    }


def per_item(scores: Scores) -> dict[str, list[float]]:
    """The scores of each item, in the items' order."""
    return {
        "tokens": scores.tokens.tolist(),
        "kl": [float(f"{x:.5g}") for x in scores.kl],
        "agree": scores.agree.tolist(),
        "right": scores.right.tolist(),
    }
