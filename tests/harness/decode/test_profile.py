"""Kernels add up by name and by step, and each case gets its own; the device's tracing is faked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.decode import DecodeCase
from harness.decode.profile import PROFILED_STEPS, KernelCall, kernel_totals, last_step, profile_decode

CASE = DecodeCase(B=4, E=2, context=512)


def calls() -> list[KernelCall]:
    """Each step: two products of 10 us and a norm of 1 us, 100 us apart."""
    return [
        KernelCall(name=name, start_us=1000 + 100 * step + start, duration_us=duration)
        for step in range(PROFILED_STEPS)
        for name, start, duration in (("norm", 0, 1.0), ("product", 1, 10.0), ("product", 11, 10.0))
    ]


def test_the_longest_kernel_comes_first_with_its_calls_and_time_in_a_step() -> None:
    assert kernel_totals(calls(), steps=PROFILED_STEPS) == [
        {"kernel": "product", "calls_per_step": 2, "us_per_step": 20},
        {"kernel": "norm", "calls_per_step": 1, "us_per_step": 1},
    ]


def test_the_sequence_is_of_the_last_step_and_begins_at_zero() -> None:
    # a trace need not come in order
    step = last_step(list(reversed(calls())))
    assert [(call.name, call.start_us, call.duration_us) for call in step] == [
        ("norm", 0, 1),
        ("product", 1, 10),
        ("product", 11, 10),
    ]


@pytest.mark.parametrize("traced", [calls(), []])
def test_a_profile_is_written_for_each_case(traced: list[KernelCall], tmp_path: Path) -> None:
    loaded: list[tuple[DecodeCase, int]] = []

    class FakeRig:
        def load(self, case: DecodeCase, *, steps: int) -> Callable[[], None]:
            loaded.append((case, steps))
            return lambda: None

    said: list[str] = []
    path = tmp_path / "new" / "profile.json"
    profile_decode(FakeRig(), [CASE, CASE.base_only], path, trace=lambda step, count: traced, say=said.append)
    assert loaded == [(CASE, PROFILED_STEPS), (CASE.base_only, PROFILED_STEPS)]
    written = json.loads(path.read_text())
    assert [entry["case"]["E"] for entry in written] == [2, 0]
    assert written[0]["kernels"] == kernel_totals(traced, steps=PROFILED_STEPS)
    assert said[0] == f"B 4 E 2: {21 if traced else 0} us of kernels a step"
