import pytest

from harness.errors import UsageError
from harness.fidelity.allocated import CANDIDATES, Allocated, parse_allocated
from harness.fidelity.arms import DEFAULT_ARMS, GROUPS, arms_of
from meswitch.codecs import codec_names, parse_codec
from meswitch.errors import CodecOptionError


def test_every_registered_codec_is_among_the_arms() -> None:
    named = [arm.spec for arm in DEFAULT_ARMS if arm.spec and arm.group != "allocation"]
    assert {parse_codec(spec).name for spec in named} == set(codec_names())


def test_no_arm_is_there_twice() -> None:
    names = [arm.name for arm in DEFAULT_ARMS]
    assert len(set(names)) == len(names)


def test_given_codecs_come_with_both_ends() -> None:
    assert [arm.name for arm in arms_of(["bitdelta"])] == ["base", "expert", "bitdelta"]
    with pytest.raises(UsageError, match="each codec may be given once"):
        arms_of(["bitdelta", "bitdelta"])


def test_budgets_are_spent_in_four_ways_after_what_is_cheap() -> None:
    named = [arm.spec for arm in DEFAULT_ARMS if arm.group == "allocation"]
    assert named[:4] == [f"allocated:bits=0.8,by={by}" for by in ("search", "measured", "weighted", "plain")]
    assert len(named) == 17
    assert {parse_allocated(spec).bits for spec in named} == {0.55, 0.8, 1.0, 2.25}  # type: ignore[union-attr]
    assert GROUPS[-2:] == ("allocation", "distilled")


def test_a_budget_can_be_asked_for_as_a_codec_is() -> None:
    assert parse_allocated("allocated:by=plain,bits=1") == Allocated(bits=1.0, by="plain")
    assert parse_allocated("allocated") == Allocated(bits=0.8, by="search")
    assert parse_allocated("rtn:bits=2") is None
    *_, arm = arms_of(["allocated:bits=0.7,by=search"])
    assert (arm.name, arm.group, arm.gains) == ("allocated:bits=0.7,by=search", "allocation", (1.0, None))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("allocated:by=guess", "by must be one of search, measured, weighted, plain, got guess"),
        ("allocated:bits=0", "bits must be positive, got 0"),
        ("allocated:bits=two", "bits must be a number, got 'two'"),
        ("allocated:bytes=3", "codec allocated has no option 'bytes'"),
    ],
)
def test_what_is_no_budget_is_refused(spec: str, message: str) -> None:
    with pytest.raises(CodecOptionError, match=message):
        arms_of([spec])


def test_every_candidate_is_measured_as_a_codec_for_all() -> None:
    alike = [parse_codec(arm.spec) for arm in DEFAULT_ARMS if arm.spec and arm.group != "allocation"]
    assert all(parse_codec(spec) in alike for spec in CANDIDATES)


def test_a_group_of_arms_comes_with_both_ends_and_the_codecs_beside_it() -> None:
    arms = arms_of(["rtn:bits=2", "allocated:bits=1,by=plain"], ["allocation"])
    assert [arm.name for arm in arms[:4]] == ["base", "expert", "rtn:bits=2", "allocated:bits=1,by=plain"]
    assert {arm.name for arm in arms[4:]} == {
        arm.name for arm in DEFAULT_ARMS if arm.group == "allocation" and arm.name != "allocated:bits=1,by=plain"
    }
    assert [arm.name for arm in arms_of([], ["half"])][:2] == ["base", "expert"]
    with pytest.raises(UsageError, match="must be one of core, heavy, ablation, half, allocation, distilled, got 'x'"):
        arms_of([], ["half", "x"])
