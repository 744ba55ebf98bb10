"""The measurement takes turns, resumes by groups, and keeps medians, extremes and raw repeats; steps are faked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.decode import DecodeCase, DecodeOptions, parse_cases
from harness.decode.command import format_row, whole_models_line
from harness.decode.floor import step_read_bytes
from harness.decode.measure import COLUMNS, MeasureInputs, decode_table, measure_decode, missing_groups
from harness.decode.rig import decode_subject
from harness.flat_table import FlatTable
from harness.random_model import Layouts
from harness.telemetry import NullGpu
from meswitch.config import SyntheticConfig

CODEC = "salient:bits=2,channels=8"


class FakeRig:
    """Loads cases, and tells the timer which one runs."""

    def __init__(self) -> None:
        self.loaded: list[tuple[int, int]] = []

    def load(self, case: DecodeCase, *, steps: int) -> Callable[[], None]:
        self.loaded.append((case.B, case.E))
        return lambda: None


def options(cases: str = "4x4,4x1,1x1", **changes: int) -> DecodeOptions:
    parsed = parse_cases(cases, context=512)
    return DecodeOptions(
        family="mistral-7b", cases=parsed, synthetic=SyntheticConfig(), **{"repeats": 3, "replays": 20, **changes}
    )


def inputs_of(asked: DecodeOptions, rig: FakeRig) -> MeasureInputs:
    def time_block(step: Callable[[], None], count: int) -> float:
        B, E = rig.loaded[-1]
        # ms of a step: rows and experts, and a tenth more at each turn
        return count * (B + E / 10 + len(rig.loaded) / 1000)

    return MeasureInputs(
        family="mistral-7b",
        codec=CODEC,
        options=asked,
        layouts=decode_subject(asked).layouts,
        read_bandwidth=3e12,
        time_block=time_block,
        gpu=NullGpu(),
        provenance={"gpu": "fake"},
    )


def table_at(path: Path | None) -> FlatTable:
    return decode_table(path)


def test_cases_of_a_group_take_turns_forward_and_backward() -> None:
    rig, asked = FakeRig(), options("4x4,4x1")
    groups = missing_groups(asked, table_at(None), family="mistral-7b", codec=CODEC)
    list(measure_decode(rig, inputs_of(asked, rig), groups, table_at(None)))
    forward = [(4, 4), (4, 1), (4, 0)]
    assert rig.loaded == [*forward, *reversed(forward), *forward]


def test_a_row_has_the_median_the_extremes_the_floor_and_the_base_of_its_group() -> None:
    rig, asked, table = FakeRig(), options("4x4"), table_at(None)
    inputs = inputs_of(asked, rig)
    groups = missing_groups(asked, table, family="mistral-7b", codec=CODEC)
    rows = list(measure_decode(rig, inputs, groups, table))
    assert [tuple(row) for row in rows] == [COLUMNS, COLUMNS]
    # turns 1, 4 and 5 are those of 4x4; 2, 3 and 6 those of the base
    (row, base) = rows
    assert (row["step_ms_low"], row["step_ms"], row["step_ms_high"]) == pytest.approx((4.401, 4.404, 4.405))
    assert row["base_only_ms"] == base["step_ms"] == pytest.approx(4.003)
    floor_ms = step_read_bytes(DecodeCase(B=4, E=4, context=512), inputs.layouts.whole, inputs.layouts.slot) / 3e9
    assert row["floor_ms"] == pytest.approx(floor_ms)
    assert row["ratio_to_floor"] == pytest.approx(4.404 / floor_ms)
    assert (row["codec"], base["codec"]) == (CODEC, None)
    assert "4.404 ms [4.401, 4.405]" in format_row(row)


def test_a_table_resumes_with_the_groups_that_it_lacks_and_keeps_every_repeat(tmp_path: Path) -> None:
    path, rig, asked = tmp_path / "decode.json", FakeRig(), options()
    first, second = missing_groups(asked, table_at(path), family="mistral-7b", codec=CODEC)
    assert [{(c.B, c.E) for c in group} for group in (first, second)] == [{(4, 4), (4, 1), (4, 0)}, {(1, 1), (1, 0)}]
    list(measure_decode(rig, inputs_of(asked, rig), [first], table_at(path)))
    assert missing_groups(asked, table_at(path), family="mistral-7b", codec=CODEC) == [second]
    # with another codec the base's row is there, and is measured again beside the others
    other = missing_groups(asked, table_at(path), family="mistral-7b", codec="bitdelta")
    assert other == [first, second]
    list(measure_decode(rig, inputs_of(asked, rig), [second], table_at(path)))
    assert missing_groups(asked, table_at(path), family="mistral-7b", codec=CODEC) == []
    assert len(json.loads(path.read_text())) == 5
    records = [json.loads(line) for line in (tmp_path / "decode.raw.jsonl").read_text().splitlines()]
    assert [len(case["step_ms"]) for record in records for case in record["cases"]] == [3] * 5
    assert records[0]["provenance"] == {"gpu": "fake"}
    assert records[0]["read_bandwidth_bytes_per_s"] == 3e12


def test_the_floor_of_whole_models_is_said() -> None:
    rig, asked = FakeRig(), options("16x16,16x0")
    inputs = inputs_of(asked, rig)
    # 16 x 14.22 GB and a gibibyte of keys and values
    assert whole_models_line(inputs.layouts, inputs) == "16 rows of 16 whole models would take at least 76.2 ms a step"


def test_without_experts_no_layout_of_slots_is_needed() -> None:
    layouts = decode_subject(options("2x0")).layouts
    assert isinstance(layouts, Layouts)
    assert layouts.slot is None
    assert layouts.whole.dtype is torch.bfloat16
