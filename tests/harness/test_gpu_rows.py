"""Groups, turns and configurations of rows that were measured on a GPU."""

from functools import partial

import pytest

from harness.gpu_rows import GpuInputs, gpu_configuration, incomplete_groups, take_turns
from harness.telemetry import NullGpu

OPTIONS = {
    "dtype": "bfloat16",
    "repeats": 9,
    "index": 0,
    "synthetic": {"linear": "rtn", "embedding": "rtn:bits=4", "head": "rtn:bits=4", "seed": 3},
}


def test_a_group_that_lacks_one_row_is_measured_anew_the_largest_first() -> None:
    cases, there = ["a1", "b2", "c2", "d1", "e3"], {"a1", "b2", "d1"}
    asked: list[str] = []

    def has(case: str) -> bool:
        asked.append(case)
        return case in there

    assert incomplete_groups(cases, group_of=lambda case: case[1], has=has) == [("e3",), ("b2", "c2")]
    assert sorted(asked) == cases


def test_every_row_is_looked_at_so_that_one_of_another_configuration_is_refused_first() -> None:
    def has(case: str) -> bool:
        if case == "z1":
            raise ValueError(case)
        return False

    with pytest.raises(ValueError, match="z1"):
        incomplete_groups(["a1", "z1"], group_of=lambda case: case[1], has=has)


def test_turns_go_forward_and_backward() -> None:
    order: list[str] = []
    take_turns([partial(order.append, name) for name in "abc"], 3)
    assert "".join(order) == "abccbaabc"


def test_the_base_alone_reads_no_tables_and_without_a_card_any_counts() -> None:
    base = gpu_configuration(OPTIONS, ("dtype", "repeats"), has_experts=False, gpu=None)
    assert base == {"dtype": "bfloat16", "repeats": 9, "seed": 3}
    expert = gpu_configuration(OPTIONS, ("dtype",), has_experts=True, gpu="H100")
    assert set(expert) == {"dtype", "seed", "embedding", "head", "GPU"}
    assert str(expert["head"]).startswith("rtn:bits=4")


def test_a_record_begins_with_where_and_how_it_was_measured() -> None:
    inputs = GpuInputs(
        family="f", codec="rtn", time_block=lambda launch, count: 1.0, gpu=NullGpu("none"), provenance={"gpu": "x"}
    )
    header = inputs.raw_header({"repeats": 3, "cases": [1, 2]}, [2], before=None)
    assert header == {
        "provenance": {"gpu": "x"},
        "options": {"repeats": 3, "cases": [2]},
        "gpu_state_before": None,
        "gpu_state_after": None,
    }
