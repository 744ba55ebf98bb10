"""Residency read off switches, and figures without data."""

from typing import Any

import pandas as pd

from harness.records import SwitchRecord
from reports.figures.latency import draw_latency_by_arm, draw_latency_by_class
from reports.figures.memory import MemoryBar, draw_lanes, draw_memory
from reports.figures.quality import draw_accuracy, draw_routing, draw_ttft
from reports.figures.switching import draw_evictions, draw_moved, draw_switch_times, draw_timeline, residency_spans
from reports.figures.theme import ROLES, arm_colours
from reports.tables import requests_table, samples_table

S = 1_000_000_000


def switch(expert: str, decided_s: int, ready_s: int, *evicted: str) -> SwitchRecord:
    return SwitchRecord(
        expert=expert,
        source="disk",
        decided_ns=decided_s * S,
        ready_ns=ready_s * S,
        moved_bytes=10,
        evicted=evicted,
    )


def test_expert_is_resident_from_ready_until_evicted_or_the_end() -> None:
    spans = residency_spans([switch("a", 1, 2), switch("b", 5, 6, "a"), switch("a", 8, 9, "b")], end_s=20)
    assert spans == {"a": [(2.0, 5.0), (9.0, 20.0)], "b": [(6.0, 8.0)]}


def test_expert_evicted_without_a_switch_was_resident_from_the_start() -> None:
    assert residency_spans([switch("b", 5, 6, "a")], end_s=10) == {"a": [(0.0, 5.0)], "b": [(6.0, 10.0)]}


def test_figures_without_data_are_none() -> None:
    arms: dict[str, Any] = {"arms": ["x"], "treatment": "x"}
    empty = requests_table([])
    assert draw_latency_by_arm(empty, "ttft_s", label="time", **arms) is None
    assert draw_latency_by_class(empty, "ttft_s", label="time", **arms) is None
    assert draw_switch_times({}, **arms) is None
    assert draw_moved({}, **arms) is None
    assert draw_timeline([], [], experts=["a"], colour="#000000") is None
    assert draw_evictions([], experts=["a"], role="treatment") is None
    assert draw_memory([], limits={}) is None
    assert draw_lanes(samples_table([]), **arms) is None
    assert draw_accuracy(pd.DataFrame(), **arms) is None
    assert draw_ttft(pd.DataFrame(), **arms) is None
    assert draw_routing(pd.DataFrame(), role="treatment") is None


def test_treatment_is_coloured_and_every_other_arm_is_grey() -> None:
    colours = arm_colours(["full-swap-disk", "meswitch", "full-swap-host"], "meswitch")
    assert colours["meswitch"] == ROLES["treatment"][0]
    assert {colours["full-swap-disk"], colours["full-swap-host"]} == {
        ROLES["baseline"][0],
        ROLES["baseline-2"][0],
    }


def test_memory_bar_of_parts_nobody_named_is_drawn() -> None:
    figure = draw_memory([MemoryBar(label="x", parts={"planes": 1024**2})], limits={"budget": 2 * 1024**2})
    assert figure is not None
