"""The plan adds up, holds as many slots as fit, and says the numbers when too few do."""

import pytest
import torch

from meswitch.cuda.memory_plan import MemoryPlan, plan_memory
from meswitch.cuda.workspace import workspace_bytes
from meswitch.errors import CapacityError
from meswitch.families import load_shape_family

PARTS = {"base_bytes": 100, "slot_bytes": 7, "kv_bytes": 20, "workspace_bytes": 5, "context_bytes": 3}


@pytest.mark.parametrize(("budget", "slots", "rest"), [(135, 1, 0), (141, 1, 6), (142, 2, 0), (1000, 4, 844)])
def test_as_many_slots_as_fit_and_no_more_than_wanted(budget: int, slots: int, rest: int) -> None:
    # 128 bytes are fixed, each slot takes 7, and 4 are wanted
    plan = plan_memory(budget, **PARTS, wanted_slots=4)
    assert (plan.slots, plan.rest_bytes) == (slots, rest)
    assert plan.planned_bytes == 128 + 7 * slots


def test_a_byte_too_little_for_one_slot_is_an_error_that_says_the_numbers() -> None:
    with pytest.raises(CapacityError, match=r"context 3 \+ base 100 \+ 1 x 7 .* 20 \+ workspace 5 = 135 .* got 134 "):
        plan_memory(134, **PARTS, wanted_slots=4)


def test_slots_that_a_user_asked_for_are_never_lowered_in_silence() -> None:
    assert plan_memory(149, **PARTS, wanted_slots=3, least_slots=3).slots == 3
    with pytest.raises(CapacityError, match=r"3 x 7 .* = 149 .* got 148 .*: 2 fit"):
        plan_memory(148, **PARTS, wanted_slots=3, least_slots=3)


def test_without_experts_the_base_alone_must_fit() -> None:
    assert plan_memory(128, **PARTS, wanted_slots=0).slots == 0
    with pytest.raises(CapacityError, match="= 128 "):
        plan_memory(127, **PARTS, wanted_slots=0)


def test_the_printed_entries_are_in_gib_and_empty_ones_are_left_out() -> None:
    gib = 1 << 30
    plan = MemoryPlan(
        budget_bytes=76 * gib,
        context_bytes=gib // 2,
        base_bytes=0,
        slots=2,
        slot_bytes=14 * gib,
        kv_bytes=4 * gib,
        workspace_bytes=gib,
    )
    assert plan.lines(noun="whole models") == (
        "memory budget 76.00 GiB",
        "  CUDA context          0.50",
        "  2 whole models       28.00  14.00 each",
        "  keys and values       4.00",
        "  workspace             1.00  at most",
        "  rest                 42.50",
    )


def test_sixteen_experts_of_mistral_with_their_keys_and_values_fit_into_76_gib() -> None:
    shape = load_shape_family("mistral-7b").shape
    plan = plan_memory(
        76 << 30,
        base_bytes=14_483_996_672,
        slot_bytes=1_904_781_312,
        wanted_slots=16,
        # 32 layers x keys and values x 1024 channels x 2 bytes x 32768 tokens = 4 GiB
        kv_bytes=32 * 2 * 1024 * 2 * 32768,
        workspace_bytes=workspace_bytes(shape, torch.bfloat16, max_rows=16, chunk_tokens=512, context_tokens=2048),
        context_bytes=600 << 20,
    )
    assert plan.slots == 16
    assert plan.rest_bytes > 20 << 30
