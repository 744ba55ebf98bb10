import math

import pytest

from harness.errors import UsageError
from harness.planning import RunOptions, choose_experts, plan_run
from harness.telemetry import open_gpu

FAMILY = ("code", "dates", "maths")


def test_the_trace_decides_which_experts_are_served_in_the_familys_order() -> None:
    assert choose_experts("trace", wanted=["maths", "code", "base"], family=FAMILY) == ("code", "maths")


def test_a_trace_that_names_no_expert_gets_the_whole_family() -> None:
    assert choose_experts("trace", wanted=[], family=FAMILY) == FAMILY


def test_all_and_a_list_override_the_trace() -> None:
    assert choose_experts("all", wanted=["maths"], family=FAMILY) == FAMILY
    assert choose_experts("maths, dates", wanted=["code"], family=FAMILY) == ("dates", "maths")


@pytest.mark.parametrize(("text", "where"), [("trace", "the trace asks for law"), ("law", "--experts names law")])
def test_an_unknown_expert_is_refused_by_name(text: str, where: str) -> None:
    with pytest.raises(UsageError, match=f"{where}, which the family does not have; it has code, dates, maths"):
        choose_experts(text, wanted=["law"], family=FAMILY)


@pytest.mark.parametrize(
    "options", [{"drain_s": 0.0}, {"drain_s": math.nan}, {"drain_s": math.inf}, {"warm_up": -1}, {"threads": 0}]
)
def test_limits_that_are_none_are_refused_before_anything_is_made(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--drain must be positive and finite, --warm-up at least 0"):
        plan_run(RunOptions(trace="mixed.jsonl", **options), gpu=open_gpu())  # type: ignore[arg-type]
