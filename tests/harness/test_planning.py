import pytest

from harness.errors import UsageError
from harness.planning import choose_experts

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
