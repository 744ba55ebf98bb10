import pytest

from harness.arms import ARMS, check_arms, parse_arms, read_files
from harness.errors import UnknownArmError, UsageError


def test_arms_run_in_the_order_given():
    assert [arm.name for arm in parse_arms("full-swap-disk, meswitch")] == ["full-swap-disk", "meswitch"]


def test_unknown_repeated_and_missing_arms_are_refused():
    with pytest.raises(UnknownArmError, match="no arm is called 'x'"):
        parse_arms("x")
    for text in ("", "meswitch,meswitch"):
        with pytest.raises(UsageError, match="must name each arm once"):
            parse_arms(text)


def test_modifiers_change_buffers_and_order_and_stay_in_the_name():
    plain, double, cached = parse_arms("full-swap-host,full-swap-host+double+grouped,full-swap-host+cached")
    assert (plain.buffers, plain.order) == (1, "first-come")
    assert (double.name, double.buffers, double.order) == ("full-swap-host+double+grouped", 2, "grouped")
    # as many as the budget holds
    assert cached.buffers is None
    assert "the next is copied while one computes" in double.description


@pytest.mark.parametrize("text", ["meswitch+fast", "full-swap-host+double+double", "full-swap-host+double+cached"])
def test_unknown_repeated_and_contradicting_modifiers_are_refused(text):
    with pytest.raises(UnknownArmError, match="there may be double, cached, grouped, each once"):
        parse_arms(text)


@pytest.mark.parametrize("text", ["meswitch+double", "all-resident+cached", "merged+double"])
def test_only_arms_that_swap_have_buffers_to_choose(text):
    with pytest.raises(UnknownArmError, match="is for arms that swap whole models"):
        parse_arms(text)


def test_an_arm_that_needs_a_gpu_says_so_on_a_cpu():
    arms = parse_arms("full-swap-host")
    check_arms(arms, device="cuda", experts=["a", "b"])
    with pytest.raises(
        UsageError, match=r"full-swap-host keeps whole models outside .+ it needs --device cuda, got cpu"
    ):
        check_arms(arms, device="cpu", experts=["a", "b"])


def test_the_floor_has_one_expert():
    arms = parse_arms("merged")
    check_arms(arms, device="cpu", experts=["a"])
    with pytest.raises(UsageError, match="merged serves one expert only, got 2"):
        check_arms(arms, device="cpu", experts=["a", "b"])


def test_the_state_of_the_page_cache_is_the_arms_own():
    assert ARMS["full-swap-disk"].page_cache("cuda").startswith("warm")
    assert ARMS["full-swap-disk-cold"].page_cache("cuda").startswith("bypassed")
    assert ARMS["full-swap-host"].page_cache("cuda").startswith("not used")
    # a CPU engine has no pinned memory: it reads files
    assert ARMS["all-resident"].page_cache("cpu").startswith("warm")


def test_files_are_read_whole(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "y").write_bytes(b"123")
    assert read_files([tmp_path]) == 8
