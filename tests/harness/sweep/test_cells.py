import pytest

from harness.errors import UnknownArmError, UsageError
from harness.sweep.cells import parse_grid
from meswitch.errors import UnknownPolicyError

GIB = 1 << 30
LISTS = {
    "arms": "meswitch,merged",
    "experts": "4,1",
    "policies": "lru",
    "popularities": "uniform,zipf:1.0",
    "in_flight": "16",
    "rates": "",
    "budgets": "24GiB",
}


def grid(**lists):
    return parse_grid(**{**LISTS, **lists})


def test_cells_are_all_combinations_and_the_floor_has_one_expert():
    cells = list(grid().cells())
    assert [(c.arm, c.experts, c.popularity) for c in cells] == [
        ("meswitch", 1, "uniform"),
        ("meswitch", 1, "zipf:1"),
        ("meswitch", 4, "uniform"),
        ("meswitch", 4, "zipf:1"),
        ("merged", 1, "uniform"),
        ("merged", 1, "zipf:1"),
    ]
    assert {c.budget_bytes for c in cells} == {24 * GIB}


def test_closed_and_open_loops_stand_side_by_side():
    loads = {(c.in_flight, c.rate_per_s) for c in grid(in_flight="1,16", rates="2.5").cells()}
    assert loads == {(1, None), (16, None), (None, 2.5)}


def test_keys_are_names_of_files_and_differ():
    cells = list(
        grid(in_flight="1,16", rates="0.5", budgets="24GiB,1.5GiB,1000B", arms="full-swap-host+double").cells()
    )
    keys = [c.key for c in cells]
    assert len(set(keys)) == len(keys)
    assert "full-swap-host+double_e001_lru_zipf-1_r0.5_1536MiB" in keys
    assert not any(set(key) & set("/: ") for key in keys)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"experts": ""}, "--experts must name at least one value"),
        ({"experts": "4,4"}, "each once, got '4,4'"),
        ({"experts": "0"}, "--experts must be a list with commas, got '0': must be at least 1, got 0"),
        ({"experts": "many"}, "--experts must be a list with commas, got 'many'"),
        ({"popularities": "normal"}, "popularity must be uniform, zipf:S, distinct or identical, got 'normal'"),
        ({"in_flight": "", "rates": ""}, "a sweep needs a load: --in-flight or --rate"),
        ({"rates": "nan"}, "must be positive and finite, got nan"),
        ({"budgets": "big"}, "a size must look like 32MiB"),
    ],
)
def test_lists_that_make_no_sense_are_refused(lists, message):
    with pytest.raises(UsageError, match=message):
        grid(**lists)


def test_unknown_arms_and_policies_are_refused_by_name():
    with pytest.raises(UnknownArmError, match="no arm is called 'vllm'"):
        grid(arms="vllm")
    with pytest.raises(UnknownPolicyError, match="got 'fifo'"):
        grid(policies="fifo")
