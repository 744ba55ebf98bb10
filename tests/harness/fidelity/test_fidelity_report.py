import json
from pathlib import Path

import pytest

from harness.errors import RunFormatError
from harness.fidelity.arms import DEFAULT_ARMS
from harness.fidelity.means import group_of, label_of
from harness.fidelity.pairs import PAIRS, pairs_of
from harness.fidelity.rebuild import by_expert, rebuild_fidelity
from harness.fidelity.scores import Record, append_record, read_records, record_path
from harness.fidelity.tables import figure_label, figure_table, markdown, shown_label
from tests.harness.fidelity.plain_record import plain_record

RECIPE = "salient:bits=2,channels=8,step=mse"
SPARSE = "sparse-sign:group=8"


def record(task: str, seed: int, arm: str, kl: tuple[float, ...], **changes: object) -> Record:
    fields = {"task": task, "seed": seed, "expert_hash": f"{task}{seed}", "arm": arm, "tokens": (2, 2, 4), "kl": kl}
    fields |= {"nll": (1.0, 1.0, 2.0), "agree": (2, 2, 2), "right": (2, 1, 4)}
    return plain_record(**(fields | changes))


def keep(output: Path, *, tasks: tuple[str, ...] = ("a",), learnt: bool = True) -> None:
    for task in tasks:
        for seed in (0, 1):
            right = (2, 2, 4) if learnt else (0, 0, 0)
            made = [
                record(task, seed, "base", (4.0, 4.0, 8.0), nll=(4.0, 4.0, 8.0), right=(0, 0, 0)),
                record(task, seed, "expert", (0.0, 0.0, 0.0), nll=(0.0, 0.0, 0.0), right=right),
                record(task, seed, RECIPE, (0.4, 0.4, 0.8), codec="salient", bits_per_weight=2.2, expert_bytes=220),
                record(task, seed, SPARSE, (0.2, 0.2, 0.4), codec="sparse-sign", bits_per_weight=0.6, expert_bytes=60),
            ]
            if seed == 0:
                made.append(record(task, seed, "bitdelta", (2.0, 2.0, 4.0), codec="bitdelta", bits_per_weight=1.0))
            for one in made:
                append_record(record_path(output, task, seed), one)


def test_rows_are_per_token_and_per_item(tmp_path: Path) -> None:
    keep(tmp_path)
    rebuild_fidelity(tmp_path)
    rows = json.loads((tmp_path / "quality.json").read_text())
    row = next(row for row in rows if row["codec"] == "sparse-sign" and row["seed"] == 1)
    expected = {"kl": 0.1, "nll": 0.5, "nll_base": 2.0, "nll_expert": 0.0, "gap_closed": 0.75, "agreement": 0.75}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert (row["token_accuracy"], row["accuracy"]) == (pytest.approx(7 / 8), pytest.approx(2 / 3))
    assert (row["accuracy_base"], row["accuracy_expert"], row["n"]) == (0.0, 1.0, 3)


def test_arms_of_all_experts_are_compared_with_the_recipe(tmp_path: Path) -> None:
    keep(tmp_path, tasks=("a", "b"))
    report = rebuild_fidelity(tmp_path)
    assert [mean.arm for mean in report.means] == ["base", "expert", SPARSE, RECIPE]
    assert [mean.arm for mean in report.more_arms] == ["base", "expert", SPARSE, "bitdelta", RECIPE]
    sparse = next(one for one in report.comparisons if one.arm == SPARSE)
    assert sparse.kl_ratio.value == pytest.approx(0.5)
    assert sparse.kl_ratio.low == pytest.approx(0.5)
    on_front = {mean.arm for mean in report.means if mean.on_front}
    assert on_front == {SPARSE}


def test_arms_of_the_first_seed_are_averaged_over_all_that_have_them(tmp_path: Path) -> None:
    keep(tmp_path, tasks=("a", "b"))
    late = record("b", 1, "bitdelta", (4.0, 4.0, 8.0), codec="bitdelta", bits_per_weight=1.0)
    append_record(record_path(tmp_path, "b", 1), late)
    report = rebuild_fidelity(tmp_path)
    (mean,) = (mean for mean in report.more_arms if mean.arm == "bitdelta")
    assert mean.experts == 3
    # a: 1; b: 1 and 2
    assert mean.kl.value == pytest.approx((1.0 + 1.5) / 2)
    assert "## More arms, of the 3 experts that have them" in markdown(report)


def test_pairs_stand_side_by_side_where_both_are_there(tmp_path: Path) -> None:
    keep(tmp_path)
    experts = by_expert(read_records(tmp_path))
    group = group_of(experts, list(experts), half=False)
    (pair,) = pairs_of(group, [(SPARSE, RECIPE), (SPARSE, "nested"), ("bitdelta", RECIPE)])
    assert (pair.arm, pair.reference) == (SPARSE, RECIPE)
    assert pair.kl_ratio.value == pytest.approx(0.5)
    assert pair.accuracy_change.value == 0.0


def test_every_pair_is_of_arms_that_are_measured() -> None:
    known = {label_of(arm.name, gain) for arm in DEFAULT_ARMS for gain in arm.gains}
    assert [name for pair in PAIRS for name in pair if name not in known] == []


def test_labels_keep_their_gain_outside_the_codec() -> None:
    assert shown_label(f"{RECIPE}, gain-matched") == "`salient:step=mse`, gain-matched"
    assert shown_label("dense:dtype=float32 × 0.9") == "`dense × 0.9`"


def test_budget_names_the_best_arm_and_those_that_may_be_as_good(tmp_path: Path) -> None:
    keep(tmp_path)
    for seed in (0, 1):
        twin = record("a", seed, "rtn:bits=1", (0.2, 0.2, 0.4), codec="rtn", bits_per_weight=0.7)
        append_record(record_path(tmp_path, "a", seed), twin)
    budgets = {budget.bits: budget for budget in rebuild_fidelity(tmp_path).budgets}
    assert min(budgets) == 0.6
    assert budgets[0.6].not_told_apart == ()
    assert budgets[2.3].best in (SPARSE, "rtn:bits=1")
    assert {budgets[2.3].best, *budgets[2.3].not_told_apart} == {SPARSE, "rtn:bits=1"}


def test_task_whose_expert_gains_little_is_compared_by_likelihood_alone(tmp_path: Path) -> None:
    keep(tmp_path, learnt=False)
    report = rebuild_fidelity(tmp_path)
    assert report.means == ()
    assert [task.scored for task in report.tasks] == [False]
    assert SPARSE in {mean.arm for mean in report.by_likelihood}


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    keep(tmp_path)
    rebuild_fidelity(tmp_path)
    first = (tmp_path / "summary.json").read_bytes()
    rebuild_fidelity(tmp_path)
    assert (tmp_path / "summary.json").read_bytes() == first


def test_missing_end_is_named(tmp_path: Path) -> None:
    append_record(record_path(tmp_path, "a", 0), record("a", 0, "expert", (0.0, 0.0, 0.0)))
    with pytest.raises(RunFormatError, match="record of base is missing for a-0"):
        rebuild_fidelity(tmp_path)


def test_tables_name_arms_with_their_intervals(tmp_path: Path) -> None:
    keep(tmp_path)
    text = markdown(rebuild_fidelity(tmp_path))
    assert "| a | 2 | 3 | 8 | 2.000, 0.000 | 0.0 %, 100.0 % | yes |" in text
    line = next(line for line in text.splitlines() if SPARSE in line)
    assert line.startswith(
        f"| **`{SPARSE}`** | 0.600 | 0.0 | 0.10000 [0.10000, 0.10000] | 0.50 [0.50, 0.50] | – | 0.7500"
    )
    assert "| 33.33 [0.00, 100.00] |" in line


def test_figure_is_drawn_from_the_codecs_alone(tmp_path: Path) -> None:
    keep(tmp_path)
    table = figure_table(rebuild_fidelity(tmp_path).means)
    assert table["label"].tolist() == ["sparse-sign", "salient mse"]
    assert table["bits"].tolist() == [0.6, 2.2]


@pytest.mark.parametrize(
    ("arm", "label"),
    [
        ("sparse-sign:group=8,channels=8", "sparse-sign + salient"),
        ("sparse-sign:group=8,pick=wanda", "sparse-sign by activation"),
        ("rtn:bits=2", "rtn unbiased"),
        ("salient:select=random,step=mse", "salient mse"),
        ("bitdelta distilled=matrix", "bitdelta distilled"),
        ("lowrank:bits=2", "lowrank float16"),
        ("sparse-sign:group=8,step=mse", "sparse-sign mse"),
        ("sparse-sign:group=8 distilled=codes", "sparse-sign distilled codes"),
    ],
)
def test_legend_says_what_matters(arm: str, label: str) -> None:
    assert figure_label(arm) == label
