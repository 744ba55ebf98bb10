import pytest

from harness.errors import UsageError
from harness.fidelity.arms import DEFAULT_ARMS, arms_of
from meswitch.codecs import codec_names, parse_codec


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
