from pathlib import Path

import pytest

from harness.arms import ARMS, check_budget, default_budget, engine_config, parse_arms, read_files
from harness.errors import UnknownArmError, UsageError
from harness.prepare import DeltaSize, Prepared

SIZE = DeltaSize(whole=10, linears=6, full_model=50, bits_per_weight=2.0, bits_per_weight_whole=3.0, dense=90)


@pytest.fixture
def prepared():
    names = [f"e{i}" for i in range(8)]
    return Prepared(
        family="made",
        base=Path("base"),
        checkpoints={name: Path("whole") / name for name in names},
        deltas={name: Path("delta") / name for name in names},
        router=Path("router"),
        domains={name: f"about {name}" for name in names},
        tasks={name: name for name in names},
        model_bytes=100,
        router_bytes=70,
        sizes=dict.fromkeys(names, SIZE),
        codec="rtn:bits=2",
        codec_name="rtn",
        codec_options={"bits": 2},
        weights_hash="x",
    )


def test_the_default_budget_holds_base_codes_router_and_two_dense_experts(prepared):
    # 70 + 100 + 8 * 10 + 2 * 90
    assert default_budget(prepared, router="llm") == 430
    assert default_budget(prepared, router="tag") == 360
    # beside the router, three whole models of 100 fit into the same bytes
    assert (430 - 70) // 100 == 3


def test_a_budget_that_holds_no_expert_is_refused_with_what_is_needed(prepared):
    arms = parse_arms("meswitch,full-swap-disk")
    # meswitch: 70 + 100 + 10; full swap: 70 + 100
    check_budget(arms, prepared, router="llm", budget=180)
    with pytest.raises(UsageError, match="meswitch needs 180 B, got 179 B"):
        check_budget(arms, prepared, router="llm", budget=179)
    check_budget(arms[1:], prepared, router="tag", budget=100)
    with pytest.raises(UsageError, match="full-swap-disk needs 100 B, got 99 B"):
        check_budget(arms[1:], prepared, router="tag", budget=99)


def test_arms_differ_in_their_weights_alone(prepared):
    ours, theirs = (engine_config(arm, prepared, router="llm", budget=430) for arm in ARMS.values())
    assert (ours.weights, theirs.weights) == ("delta", "full")
    assert ours.experts["e1"] == Path("delta/e1")
    assert theirs.experts["e1"] == Path("whole/e1")
    for name in ("base", "router", "scheduler", "memory_budget_bytes", "threads"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_without_a_router_every_request_names_its_expert(prepared):
    assert engine_config(ARMS["meswitch"], prepared, router="tag", budget=430).router is None


def test_arms_run_in_the_order_given():
    assert [arm.name for arm in parse_arms("full-swap-disk, meswitch")] == ["full-swap-disk", "meswitch"]


def test_unknown_repeated_and_missing_arms_are_refused():
    with pytest.raises(UnknownArmError, match="no arm is called 'x'"):
        parse_arms("x")
    for text in ("", "meswitch,meswitch"):
        with pytest.raises(UsageError, match="must name each arm once"):
            parse_arms(text)


def test_files_are_read_whole(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "y").write_bytes(b"123")
    assert read_files([tmp_path]) == 8
