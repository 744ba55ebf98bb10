"""What a comparison may claim."""

import pytest

from harness.claims import Claim, claim_apart, claim_difference, claim_exact, claim_ratio
from harness.summary import Estimate


def estimate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def ratio(value: float, low: float | None, high: float | None) -> Claim:
    return claim_ratio(estimate(value, low, high), lower="lower", higher="higher", better="lower")


def test_ratio_below_one_is_told_as_how_many_times_lower() -> None:
    claim = ratio(0.25, 0.2, 0.5)
    assert claim == Claim(text="4.0× lower [2.0, 5.0]", tone="better", amount="4.0×")


def test_losing_is_said_as_plainly_as_winning() -> None:
    claim = ratio(3.0, 2.0, 4.0)
    assert claim == Claim(text="3.0× higher [2.0, 4.0]", tone="worse", amount="3.0×")


@pytest.mark.parametrize("bounds", [(0.9, 1.1), (1.0, 1.5), (0.5, 1.0)])
def test_interval_that_includes_one_allows_no_claim_of_a_difference_nor_of_equality(
    bounds: tuple[float, float],
) -> None:
    claim = ratio(1.0, *bounds)
    assert claim.text.startswith("no significant difference")
    assert "equal" not in claim.text
    assert (claim.tone, claim.amount) == ("unclear", "")


def test_ratio_without_an_interval_claims_nothing() -> None:
    claim = ratio(0.1, None, 0.2)
    assert claim.text.startswith("no claim")
    assert (claim.tone, claim.amount) == ("few", "")


def test_missing_ratio_is_no_comparison() -> None:
    assert claim_ratio(None, lower="lower", higher="higher", better="lower").tone == "neutral"


def test_unpaired_medians_are_told_apart_only_by_intervals_that_do_not_touch() -> None:
    apart = claim_apart(estimate(2, 1, 3), estimate(8, 6, 9), lower="lower", higher="higher")
    assert (apart.amount, apart.tone) == ("4.0×", "better")
    touching = claim_apart(estimate(2, 1, 6), estimate(8, 6, 9), lower="lower", higher="higher")
    assert (touching.amount, touching.tone) == ("", "unclear")
    few = claim_apart(estimate(2, None, None), estimate(8, 6, 9), lower="lower", higher="higher")
    assert (few.text, few.tone) == ("no claim: too few values for intervals", "few")


def test_counted_figures_need_no_interval() -> None:
    claim = claim_exact(30, 90, lower="less", higher="more", better="lower")
    assert claim == Claim(text="3.0× less", tone="better", amount="3.0×")
    assert claim_exact(90, 30, lower="less", higher="more", better="lower").tone == "worse"
    assert claim_exact(0, 30, lower="less", higher="more", better="lower").tone == "neutral"


def test_difference_of_shares_is_in_points_and_needs_an_interval_without_zero() -> None:
    assert claim_difference(estimate(-0.05, -0.08, -0.02)).text == "5.0 points fewer [−8.0, −2.0]"
    assert claim_difference(estimate(0.05, 0.02, 0.08)).tone == "better"
    unclear = claim_difference(estimate(-0.019, -0.037, 0.0))
    assert unclear.text == "no significant difference: −1.9 points [−3.7, +0.0]"
