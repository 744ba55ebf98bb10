from dataclasses import replace

import pytest

from harness.arms import parse_arms
from harness.engines import EngineOptions
from harness.errors import UsageError
from harness.sweep.cells import Grid, parse_grid
from harness.sweep.estimate import ASSUMPTIONS, estimate_groups
from harness.sweep.plan import engine_groups, plan_sweep, refusal, sweep_experts
from harness.sweep.presets import SweepChoices, choose
from harness.sweep.workload import Workload, cell_requests
from tests.harness.shape_families import SMALL, prepared_shapes

CUDA = EngineOptions(device="cuda", dtype="bfloat16", max_context_tokens=1024)


def estimates(plan):
    engines = list(engine_groups(plan))
    seconds = estimate_groups(plan, [(group, group.cells) for group in engines])
    return {(g.arm.name, g.experts): s for g, s in zip(engines, seconds, strict=True)}


def groups(plan):
    return [(group.arm.name, group.experts, [c.cell.experts for c in group.cells]) for group in engine_groups(plan)]


def test_experts_that_change_no_memory_share_an_engine(make_plan):
    # 100 bytes of base and 10 a slot: 150 bytes hold 5, so that 8 and 16 experts have the same slots, and so have 5
    plan = make_plan("meswitch,full-swap-host", (1, 4, 8, 16), budgets=(150,))
    assert groups(plan) == [
        ("meswitch", 1, [1]),
        ("meswitch", 4, [4]),
        ("meswitch", 16, [8, 16]),
        ("full-swap-host", 16, [1, 4, 8, 16]),
    ]


def test_a_cpu_holds_as_many_whole_models_as_its_budget_so_that_fewer_experts_are_another_engine(make_plan):
    plan = make_plan("full-swap-disk", (1, 2, 3, 4), budgets=(250,))
    trained = replace(plan.prepared, synthetic=None)
    plan = replace(plan, prepared=trained, options=replace(plan.options, device="cpu", dtype="float32"))
    assert groups(plan) == [("full-swap-disk", 1, [1]), ("full-swap-disk", 4, [2, 3, 4])]


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
        (
            "meswitch",
            {"pinned": ("x",)},
            {},
            "--pin names x, which no engine serves; there are base, expert-000, expert-001$",
        ),
        ("meswitch", {"max_context_tokens": 500}, {}, "512 . 64 are more than 500"),
        ("full-swap-host", {"device": "cpu", "dtype": "float32"}, {}, "random ones are made on a GPU"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_before_anything_is_made(arms, options, workload, message):
    grid = Grid(arms=parse_arms(arms), experts=(1, 2), budgets=(76 << 30,))
    with pytest.raises(UsageError, match=message):
        plan_sweep(grid, Workload(**workload), replace(CUDA, **options), family="mistral-7b", codec="salient:bits=2")


def test_pins_keep_their_experts_in_every_engine_that_has_them_whatever_their_case(make_plan, monkeypatch):
    made = make_plan(experts=(1, 2)).prepared
    made = replace(made, **{name: rename(getattr(made, name)) for name in ("checkpoints", "deltas", "sizes")})
    monkeypatch.setattr("harness.sweep.plan.prepare", lambda request, report: made)
    monkeypatch.setattr("harness.sweep.plan._kv_bytes", lambda plan: 0)
    grid = Grid(arms=parse_arms("meswitch"), experts=(1, 2), budgets=(1000,))
    pinned = replace(CUDA, pinned=("Expert-001", "BASE", "expert-001"))
    plan = plan_sweep(grid, Workload(), pinned, family="mistral-7b", codec="c")
    assert plan.options.pinned == ("expert-001", "base")
    # an engine of one expert has the first alone
    assert [group.config.store.pinned for group in engine_groups(plan)] == [("base",), ("expert-001", "base")]


def rename(places):
    return {name.replace("e", "expert-00"): value for name, value in places.items()}


def test_a_budget_below_one_slot_is_refused_but_for_the_arm_that_it_is_the_result_of(make_plan, monkeypatch):
    made = make_plan(experts=(1, 2)).prepared
    monkeypatch.setattr("harness.sweep.plan.prepare", lambda request, report: made)
    monkeypatch.setattr("harness.sweep.plan._kv_bytes", lambda plan: 0)
    small = Grid(arms=parse_arms("all-resident"), experts=(1, 2), budgets=(99,))
    assert plan_sweep(small, Workload(), CUDA, family="mistral-7b", codec="c").experts == ("expert-000", "expert-001")
    with pytest.raises(UsageError, match="meswitch needs 110 B, got 99 B"):
        plan_sweep(replace(small, arms=parse_arms("meswitch")), Workload(), CUDA, family="mistral-7b", codec="c")


def test_keys_and_values_leave_fewer_slots_and_the_number_that_fits_exactly_shares_their_engine(make_plan):
    plan = make_plan("meswitch", (4, 5, 6, 16), budgets=(180,))
    assert groups(plan) == [("meswitch", 4, [4]), ("meswitch", 5, [5]), ("meswitch", 6, [6]), ("meswitch", 16, [16])]
    # 180 - 100 - 30 leave 5 slots of 10: 5 experts and 16 have the same memory
    assert groups(replace(plan, kv_bytes=30)) == [("meswitch", 4, [4]), ("meswitch", 16, [5, 6, 16])]


def test_keys_and_values_of_a_shape_are_counted_by_hand(monkeypatch):
    grid = Grid(arms=parse_arms("meswitch"), experts=(1,), budgets=(76 << 30,))
    plan = plan_sweep(grid, Workload(), replace(CUDA, max_rows=16), family="mistral-7b", codec="salient:bits=2")
    # keys and values of 32 layers, 16 rows of 1024 tokens, 8 heads of 128, 2 bytes each
    assert plan.kv_bytes == 2 * 32 * 16 * 1024 * 8 * 128 * 2


def test_whole_models_that_cannot_all_stay_are_refused_by_arithmetic(make_plan):
    plan = replace(make_plan("all-resident,full-swap-host", (2, 3), budgets=(310,)), kv_bytes=20)
    refused = {(group.arm.name, group.experts): refusal(plan, group) for group in engine_groups(plan)}
    assert refused["all-resident", 2] is None
    # one model in a buffer holds as many experts as there are names
    assert refused["full-swap-host", 3] is None
    assert refused["all-resident", 3] == (
        "memory must hold 3 whole models of 100 bytes and 20 of keys and values = 320 bytes, and the budget is 310"
    )


def test_the_headline_is_one_call_from_1_to_128_experts(monkeypatch):
    monkeypatch.setattr("harness.sweep.plan.prepare", lambda request, report: prepared_shapes(request.experts))
    monkeypatch.setattr("harness.sweep.plan._kv_bytes", lambda plan: 0)
    chosen = choose("headline", SweepChoices())
    grid = parse_grid(
        arms=chosen.arms,
        experts=chosen.experts,
        policies=chosen.policies,
        popularities=chosen.popularity,
        in_flight=chosen.in_flight,
        rates=chosen.rates,
        budgets="420B",
    )
    plan = plan_sweep(grid, Workload(), CUDA, family="mistral-7b", codec="c")
    found = [(group.arm.name, group.experts, len(group.cells)) for group in engine_groups(plan)]
    # 32 slots of 10 bytes beside a base of 100: the engines of more experts are one, and so are those of a swap
    assert found[:8] == [
        *(("meswitch", n, 2) for n in (1, 2, 4, 8, 16, 24)),
        ("meswitch", 128, 10),
        ("full-swap-host", 128, 22),
    ]
    assert sum(cells for _, _, cells in found) == 11 * 3 * 2


def test_the_estimate_grows_with_cells_and_a_refusal_costs_nothing(make_plan):
    plan = make_plan("meswitch,all-resident", (1, 4), budgets=(200,), popularities=("uniform", "distinct"))
    found = estimates(plan)
    # 0.2 s, 0.05 s of warm-up and 0.2 s around them, twice
    assert found["meswitch", 4].cells_s == pytest.approx(0.9)
    assert found["all-resident", 1].most_s > found["all-resident", 1].total_s > 0.9
    assert found["all-resident", 4].most_s == 0


def test_a_process_and_pinned_memory_are_estimated_once(make_plan):
    size = replace(SMALL, whole=1 << 30)
    plan = make_plan("meswitch", (1, 4), budgets=(100 << 30,))
    plan = replace(plan, prepared=prepared_shapes(plan.experts, size=size, model_bytes=14 << 30))
    found = estimates(plan)
    copy_s = (1 << 30) / ASSUMPTIONS["host_to_device_bytes_per_s"] + ASSUMPTIONS["touch_s"]
    steps_s, gib_s = ASSUMPTIONS["steps_s_delta"], ASSUMPTIONS["pinned_s_per_gib"]
    assert found["meswitch", 1].start_s == pytest.approx(ASSUMPTIONS["process_s_cuda"] + steps_s + gib_s + copy_s)
    # three images more
    assert found["meswitch", 4].start_s == pytest.approx(steps_s + 3 * gib_s + 4 * copy_s)


def test_whole_models_that_take_turns_settle_late_if_they_are_given_the_time(make_plan):
    workload = Workload(prompt_tokens=4, output_tokens=3, seconds=1.0, warm_up_s=0.5, warm_up_limit_s=15.0)
    plan = make_plan("full-swap-host", (1, 16), budgets=(100 << 30,), workload=workload)
    plan = replace(plan, prepared=replace(plan.prepared, model_bytes=14_500_000_000))
    # one expert needs no turns; sixteen take 2.4 copies of 14.5 GB at 55 GB/s each, 10.12 s
    assert estimates(plan)["full-swap-host", 16].cells_s == pytest.approx(2 * 1.2 + 0.5 + 10.12, abs=0.01)
    hasty = replace(plan, workload=replace(workload, warm_up_limit_s=1.5))
    assert estimates(hasty)["full-swap-host", 16].cells_s == pytest.approx(2 * 1.2 + 0.5 + 1.5)


def test_what_has_a_result_needs_no_time(make_plan):
    plan = make_plan()
    assert list(estimate_groups(plan, [(group, []) for group in engine_groups(plan)])) == [None, None]
