from pathlib import Path

import pytest

from harness.fidelity.chosen import kind_of, rebuild_chosen
from harness.fidelity.rebuild import rebuild_fidelity
from harness.fidelity.scores import Chosen, Record, Search, append_record, pack_records, record_path
from harness.fidelity.tables import figure_table
from tests.harness.fidelity.plain_record import plain_record

ARM = "allocated:bits=1,by=search"
Q, OUT, DOWN = (
    "m.layers.0.self_attn.q_proj.weight",
    "m.layers.0.self_attn.o_proj.weight",
    "m.layers.0.mlp.down_proj.weight",
)
SIGNS, FOUR = "rtn:bits=1,step=unbiased", "rtn:bits=4,step=unbiased"


def record(seed: int, arm: str, **changes: object) -> Record:
    fields = {"task": "a", "seed": seed, "expert_hash": str(seed), "arm": arm, "nll": (4.0, 4.0), "kl": (1.0, 1.0)}
    return plain_record(**(fields | {"right": (0, 0)} | changes))


def keep(output: Path) -> None:
    """Two experts, and what was chosen for the three linears of each."""
    for seed, specs in enumerate(((SIGNS, SIGNS, FOUR), (SIGNS, FOUR, FOUR))):
        chosen = Chosen(
            codecs=dict(zip((Q, OUT, DOWN), specs, strict=True)),
            search=Search(generations=3, items=8, start=0.25, found=0.125 / (1 + seed)),
        )
        made = {"codec": "allocated", "options": {"bits": 1.0, "by": "search"}, "chosen": chosen}
        bits = {"bits_per_weight": 0.9 + 0.05 * seed, "expert_bytes": 100 + seed}
        for one in (
            record(seed, "base"),
            record(seed, "expert", nll=(0.0, 0.0), kl=(0.0, 0.0), right=(2, 2)),
            record(seed, ARM, **made, **bits),
            record(seed, ARM, gain=1.1, gain_matched=True, **made, **bits),
        ):
            append_record(record_path(output, "a", seed), one)


def test_linears_are_counted_by_kind_over_experts(tmp_path: Path) -> None:
    keep(tmp_path)
    text = rebuild_chosen(tmp_path)
    assert text == (tmp_path / "chosen.md").read_text()
    assert "| codec | q_proj | o_proj | down_proj | all |" in text
    # of the first: two of signs; of the second: one
    assert "| `rtn:bits=1,step=unbiased` | 1.0 | 0.5 | 0.0 | 1.5 |" in text
    assert "| `rtn:bits=4,step=unbiased` | 0.0 | 0.5 | 1.0 | 1.5 |" in text
    assert (
        "a, seed 0, 0.25 before 3 generations, 0.125 after; a, seed 1, 0.25 before 3 generations, 0.0625 after" in text
    )
    # packed and read again, the same
    pack_records(tmp_path, (("a", 0), ("a", 1)))
    assert rebuild_chosen(tmp_path) == text


def test_nothing_is_written_where_nothing_was_chosen(tmp_path: Path) -> None:
    for arm in ("base", "expert"):
        append_record(record_path(tmp_path, "a", 0), record(0, arm))
    assert rebuild_chosen(tmp_path) is None
    assert not (tmp_path / "chosen.md").exists()


def test_an_arm_has_the_bits_of_the_expert_that_takes_most(tmp_path: Path) -> None:
    keep(tmp_path)
    means = {(mean.arm, mean.gain): mean for mean in rebuild_fidelity(tmp_path).means}
    assert (means[ARM, 1.0].bits_per_weight, means[ARM, None].expert_bytes) == (pytest.approx(0.95), 101)
    assert means["base", 1.0].bits_per_weight is None
    assert list(figure_table(list(means.values()))["label"]) == ["allocated by search"]


def test_a_parameter_of_no_layer_is_its_own_kind() -> None:
    assert (kind_of(Q), kind_of("proj.weight"), kind_of("w")) == ("q_proj", "proj", "w")
