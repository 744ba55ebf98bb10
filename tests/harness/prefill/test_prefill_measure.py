"""The measurement takes turns, resumes by groups, and keeps medians, extremes and raw repeats; prompts are faked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.prefill import PrefillCase, PrefillOptions, parse_cases
from harness.prefill.command import format_row
from harness.prefill.measure import COLUMNS, MeasureInputs, measure_prefill, missing_groups, prefill_table
from harness.prefill.timing import PromptTimes
from harness.telemetry import NullGpu
from meswitch.config import SyntheticConfig

CODEC = "salient:bits=2,channels=8"


class FakeRig:
    """Takes a millisecond a token, two with an expert, and one more at each turn; kernel by kernel, a hundred more."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    def run(self, case: PrefillCase) -> PromptTimes:
        self.turns.append(("expert" if case.has_expert else "base") + f" {case.tokens} {case.launches}")
        slow = 100.0 if case.launches == "single" else 0.0
        prompt_ms = case.tokens * (2 if case.has_expert else 1) + slow + len(self.turns)
        return PromptTimes(prompt_ms=prompt_ms, host_ms=prompt_ms / 4, token=7)

    def products(self, tokens: int) -> Callable[[], None]:
        return lambda: self.turns.append(f"products {tokens}")


def options(tokens: str = "16,64", *, single: bool = False, **changes: Any) -> PrefillOptions:
    cases = parse_cases(tokens, start=0, has_single=single)
    return PrefillOptions(family="mistral-7b", cases=cases, synthetic=SyntheticConfig(), **{"repeats": 3, **changes})


def inputs_of(asked: PrefillOptions) -> MeasureInputs:
    def time_block(launch: Callable[[], None], count: int) -> float:
        assert count == 1
        launch()
        return 10.0

    return MeasureInputs(
        family="mistral-7b",
        codec=CODEC,
        options=asked,
        time_block=time_block,
        gpu=NullGpu(),
        provenance={"gpu": "fake"},
    )


def missing(asked: PrefillOptions, path: Path | None, *, codec: str = CODEC) -> list[tuple[PrefillCase, ...]]:
    return missing_groups(asked, prefill_table(path), family="mistral-7b", codec=codec)


def test_cases_of_a_length_and_its_products_take_turns_forward_and_backward() -> None:
    rig, asked = FakeRig(), options("16", single=True)
    list(measure_prefill(rig, inputs_of(asked), missing(asked, None), prefill_table(None)))
    forward = ["expert 16 graphs", "base 16 graphs", "expert 16 single", "base 16 single", "products 16"]
    assert rig.turns == [*forward, *reversed(forward), *forward]


def test_a_row_has_the_median_the_extremes_the_products_and_the_base_launched_alike() -> None:
    rig, asked = FakeRig(), options("16", single=True)
    rows = list(measure_prefill(rig, inputs_of(asked), missing(asked, None), prefill_table(None)))
    assert [tuple(row) for row in rows] == [COLUMNS] * 4
    assert [(row["codec"], row["launches"]) for row in rows] == [
        (CODEC, "graphs"),
        (None, "graphs"),
        (CODEC, "single"),
        (None, "single"),
    ]
    # turns 1, 10 and 11 are those of the expert by graphs; 2, 9 and 12 those of the base
    expert, base = rows[:2]
    assert (expert["prompt_ms_low"], expert["prompt_ms"], expert["prompt_ms_high"]) == (33, 42, 43)
    assert expert["host_ms"] == 42 / 4
    assert expert["base_only_ms"] == base["prompt_ms"] == 16 + 9
    assert (expert["base_products_ms"], expert["ratio_to_base_products"]) == (10, 4.2)
    # 3, 8 and 13, and 4, 7 and 14, launched kernel by kernel
    assert [row["prompt_ms"] for row in rows[2:]] == [32 + 108, 16 + 107]
    assert rows[2]["base_only_ms"] == 16 + 107
    assert "expert   42.000 ms [33.000, 43.000], launched in 10.500 ms" in format_row(expert)
    assert "10.000 ms, 4.20 x; base alone 25.000 ms" in format_row(expert)


def test_a_table_resumes_with_the_lengths_that_it_lacks_and_keeps_every_repeat(tmp_path: Path) -> None:
    path, rig, asked = tmp_path / "prefill.json", FakeRig(), options()
    first, second = missing(asked, path)
    assert [{c.tokens for c in group} for group in (first, second)] == [{64}, {16}]
    list(measure_prefill(rig, inputs_of(asked), [first], prefill_table(path)))
    assert missing(asked, path) == [second]
    # with another codec the base's row is there, and is measured again beside the expert's
    assert missing(asked, path, codec="bitdelta") == [first, second]
    # and with launches by themselves all rows of a length are
    assert [len(group) for group in missing(options(single=True), path)] == [4, 4]
    list(measure_prefill(rig, inputs_of(asked), [second], prefill_table(path)))
    assert missing(asked, path) == []
    assert len(json.loads(path.read_text())) == 4
    records = [json.loads(line) for line in (tmp_path / "prefill.raw.jsonl").read_text().splitlines()]
    for record in records:
        assert record["provenance"] == {"gpu": "fake"}
        assert record["base_products_ms"] == [10] * 3
        for case in record["cases"]:
            assert (len(case["prompt_ms"]), len(case["host_ms"]), case["first_tokens"]) == (3, 3, [7] * 3)


@pytest.mark.parametrize("start", [0, 512])
def test_a_prompt_behind_others_is_a_row_of_its_own(start: int, tmp_path: Path) -> None:
    path, asked = tmp_path / "prefill.json", options("16")
    list(measure_prefill(FakeRig(), inputs_of(asked), missing(asked, path), prefill_table(path)))
    behind = PrefillOptions(
        family="mistral-7b",
        cases=parse_cases("16", start=start, has_single=False),
        synthetic=SyntheticConfig(),
        repeats=3,
    )
    assert bool(missing(behind, path)) == bool(start)
