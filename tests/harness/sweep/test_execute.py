import json
from dataclasses import replace
from importlib import metadata

import pytest

from harness.errors import UsageError
from harness.sweep.build import rebuild_sweep
from harness.sweep.execute import SweepProgress, execute_sweep
from harness.sweep.results import SweepDirectory
from harness.telemetry import NullGpu
from meswitch.config import SyntheticConfig
from meswitch.errors import CapacityError, EngineError


class Card(NullGpu):
    driver = "580.1"


@pytest.fixture
def sweep(tmp_path, clock, make_driver):
    directory = SweepDirectory(tmp_path / "sweep")
    seen = {"engines": [], "cells": []}

    def go(plan, *, make=make_driver, card=None, **options):
        progress = SweepProgress(
            on_engine=lambda arm, experts: seen["engines"].append((arm, experts)),
            on_cell=lambda record: seen["cells"].append((record.key, record.outcome)),
        )
        left = execute_sweep(
            plan,
            directory,
            gpu=Card(card) if card else NullGpu(),
            clock=clock,
            make_driver=make,
            progress=progress,
            **options,
        )
        return directory, left, seen

    return go


def outcomes(directory):
    return {(cell.cell.arm, cell.cell.experts): cell.outcome for cell in directory.read_cells()}


def test_every_cell_gets_a_record_and_its_raw_requests(sweep, make_plan):
    directory, left, seen = sweep(make_plan("meswitch,merged", (1, 2), popularities=("uniform", "distinct")))
    assert left == 0
    assert [outcome for _, outcome in seen["cells"]] == ["ok"] * 6
    # one engine for each number of experts, whatever the popularity; the floor has one expert only
    assert seen["engines"] == [("meswitch", 1), ("meswitch", 2), ("merged", 1)]
    for cell in directory.read_cells():
        requests = directory.cells.read_requests(cell.key)
        assert {r.expert_wanted for r in requests} <= {"e0", "e1"}
        assert cell.settled
        assert len(cell.sequence) == len(requests)


def test_a_cell_that_has_a_result_is_not_measured_again(sweep, make_plan):
    sweep(make_plan(experts=(1, 2)))
    _, _, seen = sweep(make_plan(experts=(1, 2, 3)))
    assert [key for key, _ in seen["cells"]] == [f"meswitch_e00{n}_lru_uniform_n16_1000B" for n in (1, 2, 3)]


def test_a_cell_names_the_card_the_driver_and_the_versions_that_measured_it(sweep, make_plan):
    directory, _, _ = sweep(make_plan(experts=(1,)), card="NVIDIA One")
    record = next(directory.read_cells())
    assert (record.gpu, record.gpu_driver) == ("NVIDIA One", "580.1")
    assert record.versions.keys() == {"torch", "triton"}
    assert record.versions["torch"] == metadata.version("torch")


@pytest.mark.parametrize("experts", [(1, 2), (2,)])
def test_another_card_is_refused_by_name_before_any_engine_starts(sweep, make_plan, experts):
    directory, _, seen = sweep(make_plan(experts=(1,)), card="NVIDIA One")
    manifest = directory.manifest.read_bytes()
    started = list(seen["engines"])
    with pytest.raises(UsageError, match=r"e001_\S+ was on NVIDIA One, and this one is NVIDIA Two; give another --out"):
        sweep(make_plan(experts=experts), card="NVIDIA Two")
    assert seen["engines"] == started
    assert directory.manifest.read_bytes() == manifest
    # of another configuration, in whose tables the first card's cells are not
    other = make_plan(experts=(1,))
    sweep(replace(other, workload=replace(other.workload, output_tokens=2)), card="NVIDIA Two")


def test_a_cell_that_names_no_card_is_of_the_one_that_the_manifest_tells_of(sweep, make_plan):
    directory, _, _ = sweep(make_plan(experts=(1,)), card="NVIDIA One")
    path = next(directory.cells.all_facts())
    old = json.loads(path.read_text())
    for name in ("gpu", "gpu_driver", "versions"):
        del old[name]
    path.write_text(json.dumps(old))
    assert next(directory.read_cells()).gpu is None
    with pytest.raises(UsageError, match="NVIDIA One"):
        sweep(make_plan(experts=(1, 2)), card="NVIDIA Two")
    _, _, seen = sweep(make_plan(experts=(1, 2)), card="NVIDIA One")
    assert len(seen["cells"]) == 2


def test_a_call_with_nothing_left_to_measure_leaves_the_manifest_as_it_is(sweep, make_plan):
    directory, _, _ = sweep(make_plan(experts=(1, 2)), card="NVIDIA One")
    manifest = directory.manifest.read_bytes()
    # not even a machine without a card, which may show the tables
    assert sweep(replace(make_plan(experts=(1, 2)), commit="later"))[1] == 0
    assert directory.manifest.read_bytes() == manifest
    sweep(replace(make_plan(experts=(1, 2, 3)), commit="later"), card="NVIDIA One")
    assert directory.read_manifest().provenance["git"]["commit"] == "later"


def test_another_workload_is_another_cell(sweep, make_plan):
    from harness.sweep.workload import Workload

    sweep(make_plan(experts=(1,)))
    other = Workload(prompt_tokens=5, output_tokens=3, seconds=2.0, warm_up_s=0.1)
    _, _, seen = sweep(make_plan(experts=(1,), workload=other))
    assert len(seen["cells"]) == 2


def test_what_does_not_fit_is_a_result_and_more_of_it_is_not_tried(sweep, make_plan, make_driver):
    started = []

    def make(config):
        started.append(len(config.experts))
        driver = make_driver(config)
        if len(config.experts) > 2:
            driver.start = lambda: (_ for _ in ()).throw(CapacityError("needs 300 bytes, got 250"))
        return driver

    # three models of 100 bytes would fit: what else an engine needs, it says itself
    directory, _, _ = sweep(make_plan("all-resident", (1, 2, 3, 4), budgets=(450,)), make=make)
    assert outcomes(directory) == {
        ("all-resident", 1): "ok",
        ("all-resident", 2): "ok",
        ("all-resident", 3): "does-not-fit",
        ("all-resident", 4): "does-not-fit",
    }
    assert started == [1, 2, 3]
    messages = [cell.message for cell in directory.read_cells() if cell.outcome != "ok"]
    assert messages == ["needs 300 bytes, got 250", "3 experts do not fit already: needs 300 bytes, got 250"]


def test_what_arithmetic_refuses_starts_no_engine(sweep, make_plan):
    directory, _, seen = sweep(make_plan("all-resident", (1, 2, 3, 4), budgets=(250,)))
    assert seen["engines"] == [("all-resident", 1), ("all-resident", 2)]
    records = {cell.cell.experts: cell for cell in directory.read_cells()}
    assert [records[n].outcome for n in (3, 4)] == ["does-not-fit", "does-not-fit"]
    assert "must hold 4 whole models of 100 bytes" in records[4].message
    assert records[3].startup_s is None


def test_a_cell_says_which_engine_served_it_and_its_hit_rates_are_its_own(sweep, make_plan):
    plan = make_plan(experts=(1, 2, 4), budgets=(120,), popularities=("distinct",))
    directory, _, seen = sweep(plan)
    # two slots beside the base: the engine of four experts serves the cell of two
    assert seen["engines"] == [("meswitch", 1), ("meswitch", 4)]
    records = {cell.cell.experts: cell for cell in directory.read_cells()}
    assert {n: record.engine_experts for n, record in records.items()} == {1: 1, 2: 4, 4: 4}
    assert set(records[2].sequence) == {"e0", "e1"}
    assert set(records[4].sequence) == {"e0", "e1", "e2", "e3"}
    # what the cell before asked for is what the next one finds
    assert records[4].touched == (*records[2].touched, *records[2].sequence)
    assert [records[n].startup_s is None for n in (1, 2, 4)] == [False, False, True]
    assert records[2].startup.keys() == {"imports", "touches"}
    rows = {row.experts: row for row in rebuild_sweep(directory).rows}
    assert {n: row.engine_experts for n, row in rows.items()} == {1: 1, 2: 4, 4: 4}


@pytest.mark.parametrize(
    ("message", "outcome"), [("OutOfMemoryError: CUDA out of memory", "oom"), ("the kernel failed", "error")]
)
def test_an_engine_that_stops_costs_one_cell_and_the_next_gets_another(sweep, make_plan, make_driver, message, outcome):
    drivers = []

    def make(config):
        driver = make_driver(config)
        if not drivers:
            send = driver.send

            def stop_at_requests(request):
                if request.request_id == "r000003":
                    raise EngineError(f"the engine's process stopped with exit code 1: {message}")
                send(request)

            driver.send = stop_at_requests
        drivers.append(driver)
        return driver

    directory, _, seen = sweep(make_plan(experts=(2,), popularities=("uniform", "distinct")), make=make)
    assert [result for _, result in seen["cells"]] == [outcome, "ok"]
    assert len(drivers) == 2
    failed = next(cell for cell in directory.read_cells() if cell.outcome != "ok")
    assert message in failed.message


def test_an_error_is_tried_again_and_an_exhausted_memory_is_not(sweep, make_plan, make_driver):
    def failing(message):
        def make(config):
            driver = make_driver(config)
            driver.start = lambda: (_ for _ in ()).throw(EngineError(message))
            return driver

        return make

    sweep(make_plan(experts=(2,)), make=failing("OutOfMemoryError"))
    sweep(make_plan(experts=(1,)), make=failing("the driver is missing"))
    directory, _, seen = sweep(make_plan(experts=(1, 2)))
    assert [outcome for _, outcome in seen["cells"]] == ["oom", "error", "ok"]
    assert outcomes(directory) == {("meswitch", 1): "ok", ("meswitch", 2): "oom"}


def test_a_first_engine_that_does_not_start_is_a_mistake_and_leaves_nothing(sweep, make_plan, make_driver, tmp_path):
    def make(config):
        driver = make_driver(config)
        driver.start = lambda: (_ for _ in ()).throw(EngineError("device cuda needs a GPU"))
        return driver

    with pytest.raises(EngineError, match="needs a GPU"):
        sweep(make_plan(experts=(1, 2)), make=make)
    assert list(tmp_path.iterdir()) == []


def test_a_record_names_no_place_of_the_machine(sweep, make_plan):
    directory, _, _ = sweep(make_plan(experts=(2,)))
    config = next(directory.read_cells()).config
    assert (config["base"], config["experts"]) == ("shape", 2)


def test_nothing_is_begun_after_the_time_limit(sweep, make_plan):
    directory, left, seen = sweep(make_plan(experts=(1, 2)), time_limit_s=0.0)
    assert (left, seen["cells"]) == (2, [])
    assert directory.read_manifest().family["kind"] == "shapes only"


def test_of_real_weights_a_sweep_says_that_nobody_looks_at_the_answers(sweep, make_plan):
    plan = make_plan(experts=(1,))
    directory, _, _ = sweep(replace(plan, prepared=replace(plan.prepared, has_text=True)))
    assert directory.read_manifest().family["note"] == (
        "real weights; prompts are random tokens, answers are not looked at"
    )


def test_an_interruption_leaves_whole_cells_only(sweep, make_plan, make_driver):
    count = []

    def make(config):
        driver = make_driver(config)
        count.append(driver)
        if len(count) == 2:
            driver.start = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        return driver

    with pytest.raises(KeyboardInterrupt):
        sweep(make_plan(experts=(1, 2)), make=make)
    directory, _, seen = sweep(make_plan(experts=(1, 2)))
    assert outcomes(directory) == {("meswitch", 1): "ok", ("meswitch", 2): "ok"}
    assert len(seen["cells"]) == 2


def test_experts_in_memory_are_touched_before_the_first_cell(sweep, make_plan):
    directory, _, _ = sweep(make_plan(experts=(3,)))
    assert next(directory.read_cells()).touched == ("e0", "e1", "e2")


def test_the_experts_that_share_an_image_are_the_cells_own_not_the_engines(sweep, make_plan):
    made = make_plan(experts=(1, 2, 3, 4))
    # two slots, so that one engine of all four experts serves the cells of 2, 3 and 4; host memory holds two of them
    plan = replace(
        made,
        prepared=replace(made.prepared, synthetic=SyntheticConfig(host_images=2)),
        options=replace(made.options, slots=2),
    )
    directory, _, seen = sweep(plan)
    assert ("meswitch", 4) in seen["engines"]
    assert {cell.cell.experts: cell.shared_images for cell in directory.read_cells()} == {1: 0, 2: 0, 3: 1, 4: 2}


def test_a_second_call_of_another_codec_or_workload_relabels_no_cell_and_fits_its_own_alone(sweep, make_plan):
    made = make_plan(experts=(1, 2, 3, 4))
    sweep(replace(made, commit="old"))
    other = replace(
        make_plan(experts=(4, 5)),
        prepared=replace(made.prepared, family="other", codec="rtn:bits=4", weights_hash="v"),
        workload=replace(made.workload, output_tokens=2),
        commit="new",
    )
    other = replace(
        other,
        experts=(*made.experts, "e4"),
        prepared=replace(
            other.prepared,
            **{
                name: {**getattr(other.prepared, name), "e4": getattr(other.prepared, name)["e0"]}
                for name in ("checkpoints", "deltas", "sizes")
            },
        ),
    )
    directory, _, _ = sweep(other)
    records = {record.cell.experts: record for record in directory.read_cells()}
    assert [(n, r.family, r.codec, r.output_tokens, r.commit) for n, r in sorted(records.items())] == [
        *((n, "made", "rtn:bits=2", 3, "old") for n in (1, 2, 3)),
        *((n, "other", "rtn:bits=4", 2, "new") for n in (4, 5)),
    ]
    tables = rebuild_sweep(directory)
    assert [(row.experts, row.family, row.codec, row.output_tokens) for row in tables.rows] == [
        (4, "other", "rtn:bits=4", 2),
        (5, "other", "rtn:bits=4", 2),
    ]
    # three cells of one codec and two of another are no line through five
    assert tables.fits == ()
    # what was measured before is there again when it is asked for again, but for the cell that was overwritten
    _, _, seen = sweep(made, time_limit_s=0.0)
    assert [row.experts for row in rebuild_sweep(directory).rows] == [1, 2, 3]
    assert len(seen["cells"]) == 6
