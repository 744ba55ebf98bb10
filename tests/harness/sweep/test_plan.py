from dataclasses import replace

import pytest

from harness.arms import parse_arms
from harness.engines import EngineOptions
from harness.errors import UsageError
from harness.sweep.cells import Grid
from harness.sweep.estimate import estimate_group
from harness.sweep.plan import engine_groups, plan_sweep, sweep_experts
from harness.sweep.workload import Workload, cell_requests

CUDA = EngineOptions(device="cuda", dtype="bfloat16", max_context_tokens=1024)


def groups(plan):
    return [(group.arm.name, group.experts, [c.cell.experts for c in group.cells]) for group in engine_groups(plan)]


def test_experts_that_change_no_memory_share_an_engine(make_plan):
    # 100 bytes of base and 10 a slot: 150 bytes hold 5, so that 8 and 16 experts have the same slots
    plan = make_plan("meswitch,full-swap-host", (1, 4, 8, 16), budgets=(150,))
    assert groups(plan) == [
        ("meswitch", 1, [1]),
        ("meswitch", 4, [4]),
        ("meswitch", 16, [8, 16]),
        ("full-swap-host", 16, [1, 4, 8, 16]),
    ]


def test_whole_models_that_stay_have_an_engine_for_each_number(make_plan):
    assert groups(make_plan("all-resident", (1, 2, 4), budgets=(200,))) == [
        ("all-resident", 1, [1]),
        ("all-resident", 2, [2]),
        ("all-resident", 4, [4]),
    ]


def test_policies_budgets_and_arms_have_engines_of_their_own(make_plan):
    plan = make_plan("full-swap-host,full-swap-host+double", (2,), budgets=(200, 300), policies=("lru", "lfu"))
    configs = [group.config for group in engine_groups(plan)]
    assert [(c.device.model_buffers, c.memory_budget_bytes, c.store.policy) for c in configs] == [
        (buffers, budget, policy) for buffers in (1, 2) for budget in (200, 300) for policy in ("lru", "lfu")
    ]


def test_a_cells_name_for_its_result_follows_from_what_decides_it(make_plan):
    def names(plan):
        return [cell.config_hash for group in engine_groups(plan) for cell in group.cells]

    first = names(make_plan(experts=(1, 2)))
    # more cells, the same cells
    assert names(make_plan(experts=(1, 2, 4)))[:2] == first
    assert set(names(make_plan(experts=(1, 2), popularities=("distinct",)))).isdisjoint(first)
    other = make_plan(experts=(1, 2))
    other = replace(other, options=replace(other.options, max_rows=8))
    assert set(names(other)).isdisjoint(first)


def test_requests_are_the_same_for_every_arm(make_plan):
    def drawn():
        requests = cell_requests(Workload(prompt_tokens=6), ("a", "b", "c"), popularity="zipf:1", vocabulary=50)
        return [(r.expert_wanted, r.request.token_ids) for r, _ in zip(requests, range(20), strict=False)]

    assert drawn() == drawn()
    assert {expert for expert, _ in drawn()} == {"a", "b", "c"}
    assert {len(tokens) for _, tokens in drawn()} == {6}


def test_experts_of_a_shape_are_numbered_and_a_trained_family_has_only_its_own():
    assert sweep_experts("mistral-7b", 3, device="cuda") == ("expert-000", "expert-001", "expert-002")
    assert len(sweep_experts("pocket", 11, device="cpu")) == 11
    with pytest.raises(UsageError, match="asks for 12 experts, and pocket has 11"):
        sweep_experts("pocket", 12, device="cpu")
    with pytest.raises(UsageError, match="random ones are made on a GPU: give --device cuda"):
        sweep_experts("mistral-7b", 1, device="cpu")


@pytest.mark.parametrize(
    ("arms", "options", "workload", "message"),
    [
        ("meswitch", {"pinned": ("x",)}, {}, "--pin names x, which no cell has; there are expert-000, expert-001"),
        ("meswitch", {"max_context_tokens": 500}, {}, "512 . 64 are more than 500"),
        ("full-swap-host", {"device": "cpu", "dtype": "float32"}, {}, "random ones are made on a GPU"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_before_anything_is_made(arms, options, workload, message):
    grid = Grid(arms=parse_arms(arms), experts=(1, 2), budgets=(76 << 30,))
    with pytest.raises(UsageError, match=message):
        plan_sweep(grid, Workload(**workload), replace(CUDA, **options), family="mistral-7b", codec="salient:bits=2")


def test_a_budget_below_one_slot_is_refused_but_for_the_arm_that_it_is_the_result_of(make_plan, monkeypatch):
    made = make_plan(experts=(1, 2)).prepared
    monkeypatch.setattr("harness.sweep.plan.prepare", lambda request, report: made)
    small = Grid(arms=parse_arms("all-resident"), experts=(1, 2), budgets=(99,))
    assert plan_sweep(small, Workload(), CUDA, family="mistral-7b", codec="c").experts == ("expert-000", "expert-001")
    with pytest.raises(UsageError, match="meswitch needs 110 B, got 99 B"):
        plan_sweep(replace(small, arms=parse_arms("meswitch")), Workload(), CUDA, family="mistral-7b", codec="c")


def test_the_estimate_grows_with_cells_and_a_refusal_costs_little(make_plan):
    plan = make_plan("meswitch,all-resident", (1, 4), budgets=(200,), popularities=("uniform", "distinct"))
    found = {(g.arm.name, g.experts): estimate_group(plan, g, g.cells) for g in engine_groups(plan)}
    # 0.2 s and 0.05 s of warm-up, twice
    assert found["meswitch", 4].cells_s == pytest.approx(0.5)
    assert found["meswitch", 4].most_s > found["meswitch", 4].total_s > 20
    assert found["all-resident", 4].cells_s == 0
