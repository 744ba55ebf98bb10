"""Grids on a tiny model: cells that must be exact are, budgets hold, and the summary is its records' mean by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.cli import run_command
from harness.errors import RunFormatError, UsageError
from harness.fidelity.moments import collect_moments
from harness.fidelity.subject import Subject
from harness.grids import cells
from harness.grids.cells import BASE_CODECS, TABLE_CODECS, base_cells
from harness.grids.measure import GridOptions, check_grid, measure_grid
from harness.grids.quantised import quantised
from harness.grids.summary import cell_means, markdown
from meswitch.allocation import EvolutionConfig
from meswitch.families.smollm2.rows import Encoded
from tests.meswitch.checkpoints import tiny_config


class TinyFamily:
    """Experts that are a tiny base and noise."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = tiny_config(
                "llama", hidden_size=64, intermediate_size=64, num_hidden_layers=1, tie_word_embeddings=True
            )
            self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
            self.base = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            self.asked: list[str] = []

    def subject(self, task: str, seed: int) -> Subject:
        self.asked.append(task)
        generator = torch.Generator().manual_seed(len(task) + seed)
        expert = {n: w + 0.05 * torch.randn(w.shape, generator=generator) for n, w in self.base.items()}
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if name in expert:
                    p.copy_(expert[name])
        items = [Encoded((1, 3 + i, 4, 5 + i, 2), 2) for i in range(6)]
        return Subject(
            family="tiny",
            task=task,
            seed=seed,
            model=self.model,
            base=self.base,
            expert=expert,
            half=None,
            expert_hash="hash",
            test=items[:4],
            validation=items[4:],
            calibration=items,
        )


def rows_of(grid: Any, path: Path | None = None, **options: Any) -> list[Any]:
    return measure_grid(TinyFamily(), GridOptions(grid=grid, tasks=("a",), n=4, **options), path, lambda _: None)


def test_a_base_in_float32_is_itself() -> None:
    weights = {"w": torch.ones(2, 64)}
    assert quantised(weights, ["w"], "float32")["w"] is weights["w"]


def test_a_base_in_few_bits_asks_for_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UsageError, match="int8 bases need torchao"):
        quantised({"w": torch.ones(2, 64)}, ["w"], "int8")


def test_what_is_not_installed_is_missed_before_a_family_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.setattr("harness.fidelity.pocket.DiskFamily", lambda *_, **__: pytest.fail("a family was made"))
    assert run_command(["grid", "base", "--output", str(tmp_path / "out")]) == 1
    assert "int8 bases need torchao 0.18 or later; pip install 'meswitch[quality]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_base_in_few_bits_has_few_levels() -> None:
    pytest.importorskip("torchao")
    weights = {"w": torch.randn(8, 64, generator=torch.Generator().manual_seed(0))}
    found = quantised(weights, ["w"], "int4")["w"]
    assert all(len(group.unique()) <= 16 for row in found for group in row.split(32))
    assert 0.01 < float((found - weights["w"]).norm() / weights["w"].norm()) < 0.2


def test_a_delta_of_the_quantised_base_takes_its_error_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(weights: Any, names: Any, precision: str) -> dict[str, torch.Tensor]:
        return {name: weights[name] * (1.0 if precision == "float32" else 0.5) for name in names}

    monkeypatch.setattr(cells, "quantised", halved)
    monkeypatch.setattr(cells, "BASE_CODECS", BASE_CODECS[:2])
    subject = TinyFamily().subject("a", 0)
    found = list(base_cells(subject, collect_moments(subject)))
    assert len(found) == 5 * 2
    name = subject.linears[0]
    exact = {(c.base, c.delta_of): c.weights[name] for c in found if c.linear == BASE_CODECS[0]}
    torch.testing.assert_close(exact["float32", "original"], subject.expert[name])
    torch.testing.assert_close(exact["int8", "quantised"], subject.expert[name])
    torch.testing.assert_close(exact["int8", "original"], subject.expert[name] - 0.5 * subject.base[name])


def test_tables_have_codecs_of_their_own() -> None:
    rows = rows_of("tables")
    assert len(rows) == len(TABLE_CODECS) ** 2
    kl = {(row["embedding"], row["head"]): row["kl"] for row in rows}
    best, worst = TABLE_CODECS[0], TABLE_CODECS[-1]
    assert kl[best, best] < 1e-5
    # the head alone and the embedding alone each cost something
    assert min(kl[worst, best], kl[best, worst]) > 10 * abs(kl[best, best])


def test_a_budget_is_kept_by_every_way_to_spend_it(tmp_path: Path) -> None:
    search = EvolutionConfig(generations=2, offspring=3, survivors=(2, 1), samples=(2, 4))
    path = tmp_path / "grid.json"
    rows = rows_of("allocation", path, bits=(2.5,), search=search)
    assert [row["linear"].partition(", ")[2] for row in rows] == [
        "one codec",
        "knapsack over plain errors",
        "knapsack over weighted errors",
        "search from the fittest",
    ]
    assert all(row["bits_per_weight"] <= 2.5 for row in rows)
    check_grid("tiny", GridOptions(grid="allocation", tasks=("a",), n=4, bits=(2.5,)), path)
    with pytest.raises(UsageError, match=r"holds records of --bits 2\.5, this call asks for 1, 2\.5; give --output"):
        check_grid("tiny", GridOptions(grid="allocation", tasks=("a",), n=4, bits=(2.5, 1.0)), path)


def test_a_task_is_measured_once_and_the_summary_is_its_records_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "TABLE_CODECS", TABLE_CODECS[-2:])
    path, family = tmp_path / "grid.json", TinyFamily()
    options = GridOptions(grid="tables", tasks=("a", "b"), n=4)
    rows = measure_grid(family, options, path, lambda _: None)
    assert measure_grid(family, options, path, lambda _: None) == rows
    assert family.asked == ["a", "b"]
    check_grid("tiny", options, path)
    with pytest.raises(UsageError, match=r"grid\.json holds records of 4 items a task, this call asks for 5; give"):
        check_grid("tiny", replace(options, n=5), path)
    with pytest.raises(UsageError, match="holds records of family tiny, this call asks for other; give --output"):
        check_grid("other", options, path)
    means = cell_means(path.with_suffix(".raw.jsonl"))
    wanted = [row for row in rows if (row["embedding"], row["head"]) == means[-1].names[3:]]
    tokens = sum(row["tokens"] for row in wanted)
    assert means[-1].tasks == 2
    assert means[-1].kl == pytest.approx(sum(row["kl"] * row["tokens"] for row in wanted) / tokens, rel=1e-3)
    assert means[-1].low <= means[-1].kl <= means[-1].high
    head = markdown(means).splitlines()[0]
    assert head == "| embedding | head | KL [95 % interval] | agreement | right |"


def test_a_mean_by_hand(tmp_path: Path) -> None:
    cell = {"base": "float32", "delta_of": "original", "linear": "x", "embedding": "e", "head": "h"}
    scores = {"tokens": [1, 3], "kl": [0.5, 1.5], "agree": [1, 2], "right": [0, 3]}
    (tmp_path / "r.jsonl").write_text(json.dumps({"task": "a", "cells": [{**cell, **scores}]}) + "\n")
    (mean,) = cell_means(tmp_path / "r.jsonl")
    assert (mean.kl, mean.agreement, mean.right) == (0.5, 0.75, 0.75)
    # both items have 0.5 a token, whichever are drawn
    assert (mean.low, mean.high) == (0.5, 0.5)
    with pytest.raises(RunFormatError, match="not raw records of a grid"):
        cell_means(tmp_path / "none.jsonl")


def test_impossible_grids_are_refused() -> None:
    for changes in ({"grid": "x"}, {"n": 0}, {"bits": ()}, {"bits": (-1.0,)}):
        options: dict[str, Any] = {"grid": "base", "tasks": ("a",), "n": 4, **changes}
        with pytest.raises(UsageError, match="must be"):
            GridOptions(**options)
