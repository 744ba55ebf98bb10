from dataclasses import replace
from pathlib import Path

import pytest

from harness.arms import ARMS, parse_arms
from harness.engines import (
    EngineOptions,
    check_budget,
    default_budget,
    engine_config,
    make_options,
    resolve_pins,
)
from harness.errors import UsageError
from harness.prepared import DeltaSize, Prepared
from meswitch.config import SyntheticConfig
from meswitch.errors import UnknownPolicyError

SIZE = DeltaSize(whole=10, linears=6, full_model=50, bits_per_weight=2.0, bits_per_weight_whole=3.0, dense=90)
TAG, LLM = EngineOptions(), EngineOptions(router="llm")
CUDA = EngineOptions(device="cuda", dtype="bfloat16")


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
        vocabulary=256,
    )


def test_the_default_budget_holds_base_codes_router_and_two_dense_experts(prepared):
    # 70 + 100 + 8 * 10 + 2 * 90
    assert default_budget(prepared, LLM) == 430
    assert default_budget(prepared, TAG) == 360
    # beside the router, three whole models of 100 fit into the same bytes
    assert (430 - 70) // 100 == 3


def test_the_default_budget_of_a_gpu_is_what_an_80_gb_card_has_to_use(prepared):
    assert default_budget(prepared, CUDA) == 76 * 2**30


def test_a_budget_that_holds_no_expert_is_refused_with_what_is_needed(prepared):
    arms = parse_arms("meswitch,full-swap-disk")
    # meswitch: 70 + 100 + 10; full swap: 70 + 100
    check_budget(arms, prepared, LLM, budget=180)
    with pytest.raises(UsageError, match="meswitch needs 180 B, got 179 B"):
        check_budget(arms, prepared, LLM, budget=179)
    check_budget(arms[1:], prepared, TAG, budget=100)
    with pytest.raises(UsageError, match="full-swap-disk needs 100 B, got 99 B"):
        check_budget(arms[1:], prepared, TAG, budget=99)


def test_slots_that_were_asked_for_must_fit(prepared):
    # 100 + 3 * 10
    with pytest.raises(UsageError, match="meswitch needs 130 B, got 129 B"):
        check_budget(parse_arms("meswitch"), prepared, replace(CUDA, slots=3), budget=129)


def test_arms_differ_in_their_weights_alone(prepared):
    ours, theirs = (engine_config(arm, prepared, LLM, budget=430) for arm in parse_arms("meswitch,full-swap-disk"))
    assert (ours.weights, theirs.weights) == ("delta", "full")
    assert ours.experts["e1"] == Path("delta/e1")
    assert theirs.experts["e1"] == Path("whole/e1")
    for name in ("base", "router", "scheduler", "memory_budget_bytes", "threads", "device", "store"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_without_a_router_every_request_names_its_expert(prepared):
    assert engine_config(ARMS["meswitch"], prepared, TAG, budget=430).router is None


def test_swaps_say_where_models_come_from_and_how_many_are_held(prepared):
    arms = parse_arms("full-swap-host,full-swap-host+double,full-swap-disk-cold,all-resident,full-swap-host+cached")
    devices = [engine_config(arm, prepared, CUDA, budget=430).device for arm in arms]
    assert [d.model_buffers for d in devices] == [1, 2, 1, 8, None]
    assert [d.model_source for d in devices] == ["host", "host", "disk-cold", "host", "host"]


def test_all_resident_asks_for_a_place_for_every_expert(prepared):
    config = engine_config(ARMS["all-resident"], prepared, CUDA, budget=430)
    # an engine must have a place for each pinned expert and one more
    assert config.store.pinned == ("e0", "e1", "e2", "e3", "e4", "e5", "e6")
    assert engine_config(ARMS["meswitch"], prepared, CUDA, budget=430).store.pinned == ()


def test_slots_never_outnumber_experts(prepared):
    assert engine_config(ARMS["meswitch"], prepared, replace(CUDA, slots=20), budget=430).device.slots == 8
    assert engine_config(ARMS["meswitch"], prepared, CUDA, budget=430).device.slots is None
    assert engine_config(ARMS["full-swap-host"], prepared, replace(CUDA, slots=2), budget=430).device.slots is None


def test_synthetic_experts_share_the_images_that_the_host_holds(prepared):
    prepared = replace(prepared, synthetic=SyntheticConfig())
    options = replace(CUDA, host_budget_bytes=250)
    # 250 // 10 is more than 8 experts; 250 // 100 whole models
    deltas = engine_config(ARMS["meswitch"], prepared, options, budget=430)
    wholes = engine_config(ARMS["full-swap-host"], prepared, options, budget=430)
    assert deltas.synthetic is not None
    assert wholes.synthetic is not None
    assert (deltas.synthetic.host_images, wholes.synthetic.host_images) == (8, 2)
    # all names have a place on the host then: the host's budget is kept by sharing, not by leaving some out
    assert deltas.device.host_budget_bytes is None


def test_grouped_order_reaches_the_scheduler(prepared):
    arm = parse_arms("full-swap-disk+grouped")[0]
    assert engine_config(arm, prepared, TAG, budget=430).scheduler.order == "grouped"


def test_more_pinned_than_slots_and_unknown_policies_are_refused():
    with pytest.raises(UsageError, match="3 are pinned, got 2"):
        EngineOptions(slots=2, pinned=("a", "b", "c"))
    with pytest.raises(UsageError, match="0 are pinned, got 0"):
        EngineOptions(slots=0)
    with pytest.raises(UnknownPolicyError, match="got 'fifo'"):
        EngineOptions(policy="fifo")


def test_pins_are_experts_by_their_own_names_each_once_whatever_their_case_and_the_base():
    given = EngineOptions(pinned=("CODE", "base", "code", "Maths"))
    assert resolve_pins(given, ["Code", "maths", "law"]).pinned == ("Code", "base", "maths")
    assert resolve_pins(TAG, ["code"]) == TAG


def test_a_pin_that_no_engine_serves_is_named_with_what_there_is():
    given = EngineOptions(pinned=("foo", "code", "bar"))
    with pytest.raises(UsageError, match=r"--pin names foo, bar, which no engine serves; there are base, code, law$"):
        resolve_pins(given, ["code", "law"])
    many = ["a", "b", "c", "d", "e", "f", "code"]
    with pytest.raises(UsageError, match=r"there are base, a, b, c, d and 3 more$"):
        resolve_pins(given, many)


def test_the_type_follows_the_device():
    assert make_options(device="cuda", dtype=None).dtype == "bfloat16"
    assert make_options(device="cpu", dtype=None).dtype == "float32"
    with pytest.raises(UsageError, match="must be float32 on a CPU, got 'bfloat16'"):
        make_options(device="cpu", dtype="bfloat16")
    with pytest.raises(UsageError, match="--device must be one of cpu, cuda, got 'tpu'"):
        make_options(device="tpu", dtype=None)


def test_room_for_keys_and_values_is_rows_times_context():
    assert make_options(device="cuda", dtype=None, kv_tokens=32768).max_context_tokens == 2048
    assert make_options(device="cuda", dtype=None, kv_tokens=32768, max_rows=32).max_context_tokens == 1024
    assert make_options(device="cuda", dtype=None, kv_tokens=4096, max_rows=4, max_context=1024).max_rows == 4
    with pytest.raises(UsageError, match="got 4096 for 4 x 512; give two of the three"):
        make_options(device="cuda", dtype=None, kv_tokens=4096, max_rows=4, max_context=512)
    with pytest.raises(UsageError, match="--kv-tokens at least one a row"):
        make_options(device="cuda", dtype=None, kv_tokens=3, max_rows=4)
