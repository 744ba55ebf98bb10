"""Ablation tables by hand-computed values."""

import json
from pathlib import Path

import pytest

from harness.fidelity.ablations import ABLATIONS, rebuild_ablations
from harness.fidelity.arms import DEFAULT_ARMS
from harness.fidelity.means import REFERENCE
from harness.fidelity.rebuild import rebuild_fidelity
from harness.fidelity.scores import Record, append_record, record_path

BITS = {REFERENCE: 2.2, "rtn:bits=2,step=mse": 2.0, "salient:bits=2,channels=8,step=unbiased": 2.2}


def keep(output: Path) -> None:
    """Two seeds of two items of 2 and 4 tokens; KL in nats summed over an item's tokens."""
    arms: dict[str, tuple[tuple[float, float], tuple[int, int]]] = {
        "base": ((8.0, 16.0), (0, 0)),
        "expert": ((0.0, 0.0), (2, 4)),
        REFERENCE: ((0.2, 0.4), (2, 4)),
        "rtn:bits=2,step=mse": ((0.3, 0.6), (2, 3)),
        "salient:bits=2,channels=8,step=unbiased": ((0.05, 0.1), (2, 4)),
    }
    for seed in (0, 1):
        if seed == 1:
            del arms["salient:bits=2,channels=8,step=unbiased"]
        for arm, (kl, right) in arms.items():
            one = Record(
                family="f",
                task="a",
                seed=seed,
                expert_hash=str(seed),
                arm=arm,
                codec=arm.partition(":")[0] if arm in BITS else None,
                options=None,
                gain=1.0,
                gain_matched=False,
                distilled=None,
                half=False,
                bits_per_weight=BITS.get(arm),
                expert_bytes=None,
                tokens=(2, 4),
                nll=(0.0, 0.0) if arm != "base" else (4.0, 4.0),
                kl=kl,
                agree=(2, 4),
                right=right,
            )
            append_record(record_path(output, "a", seed), one)


def test_tables_hold_one_change_a_row(tmp_path: Path) -> None:
    keep(tmp_path)
    found = rebuild_ablations(tmp_path, rebuild_fidelity(tmp_path))
    # the table of selection has its reference alone: all others need arms that are not there
    assert [table.title for table in found] == ["The paper's codes, an ingredient at a time"]
    rows = {row.change: row for row in found[0].rows}
    assert list(rows) == ["", "no salient channels", "steps unbiased"]
    assert rows[""].arm == REFERENCE
    # the first seed alone has the unbiased step
    assert [row.experts for row in rows.values()] == [2, 2, 1]
    # 0.6 nats over 6 tokens; 0.9; 0.15
    assert [row.kl.value for row in rows.values()] == pytest.approx([0.1, 0.15, 0.025])
    ratios = [row.kl_ratio for row in rows.values()]
    assert ratios[0] is None
    # every item has the same ratio, so that every resample has it too
    for ratio, value in zip(ratios[1:], (1.5, 0.25), strict=True):
        assert ratio is not None
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((value, value, value))
    # one of two items lost, of each seed
    assert rows["no salient channels"].accuracy_change.value == -0.5
    text = (tmp_path / "ablations.md").read_text()
    assert (
        "| no salient channels | `rtn:bits=2,step=mse` | 2.000 | 0.15000 [0.15000, 0.15000] | 1.50 [1.50, 1.50] |"
        in text
    )
    assert (
        "| – | `salient:step=mse` | 2.200 | 0.10000 [0.10000, 0.10000] | 1 | 1.0000 | 0.00 [0.00, 0.00] | 2 |" in text
    )
    assert len(json.loads((tmp_path / "ablations.json").read_text())[0]["rows"]) == 3


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    keep(tmp_path)
    made = []
    for _ in range(2):
        rebuild_ablations(tmp_path, rebuild_fidelity(tmp_path))
        made.append([(tmp_path / f"ablations.{suffix}").read_bytes() for suffix in ("json", "md")])
    assert made[0] == made[1]


def test_every_arm_of_a_table_is_measured_by_default() -> None:
    known = {arm.name for arm in DEFAULT_ARMS}
    wanted = {arm for _, reference, variants in ABLATIONS for arm in (reference, *(arm for _, arm in variants))}
    assert wanted <= known
