"""What a comparison of two arms may claim, in the words of console and report alike.

A difference counts only if its interval excludes "no difference"; otherwise the words are "no significant
difference", never "equal": absence of evidence is what a short run has most of.
"""

from dataclasses import dataclass
from typing import Literal

from harness.summary import Better, Estimate
from harness.units import format_factor, format_number

__all__ = ["Claim", "Tone", "claim_apart", "claim_difference", "claim_exact", "claim_ratio"]

Tone = Literal["better", "worse", "unclear", "few", "neutral"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What two arms' figures allow to say, and whether that is good for the treatment.

    Attributes:
        text: the claim with its interval.
        tone: `unclear` if the interval includes no difference, `few` if there is no interval, `neutral` if there is
            nothing to compare.
        amount: how large the difference is, such as `3.2×` or `1.9 points`; empty if none may be claimed.
    """

    text: str
    tone: Tone
    amount: str = ""


def claim_ratio(ratio: Estimate | None, *, lower: str, higher: str, better: Better) -> Claim:
    """What `ratio` (treatment / baseline) says, in words such as "3.2× lower [2.9, 3.4]".

    Args:
        lower, higher: the words for a ratio below and above one.
        better: the direction that is good.
    """
    if ratio is None:
        return Claim(text="no comparison: one side has too few values", tone="neutral")
    if ratio.low is None or ratio.high is None:
        return Claim(text=f"no claim: ratio {format_factor(ratio.value)}, too few values for an interval", tone="few")
    if ratio.low <= 1 <= ratio.high:
        text = f"no significant difference: ratio {format_factor(ratio.value)} {_bounds(ratio)}"
        return Claim(text=text, tone="unclear")
    is_lower = ratio.high < 1
    shown = _inverse(ratio) if is_lower else ratio
    amount = format_factor(shown.value)
    return Claim(
        text=f"{amount} {lower if is_lower else higher} {_bounds(shown)}",
        tone="better" if is_lower == (better == "lower") else "worse",
        amount=amount,
    )


def claim_exact(value: float | None, baseline: float | None, *, lower: str, higher: str, better: Better) -> Claim:
    """What two counted figures say: nothing was sampled, so there is no interval and none is needed."""
    if not value or not baseline:
        return Claim(text="no comparison: one side is nothing or not known", tone="neutral")
    is_lower = value < baseline
    factor = baseline / value if is_lower else value / baseline
    if value == baseline:
        return Claim(text="the same number", tone="unclear")
    amount = format_factor(factor)
    tone: Tone = "better" if is_lower == (better == "lower") else "worse"
    return Claim(text=f"{amount} {lower if is_lower else higher}", tone=tone, amount=amount)


def claim_apart(value: Estimate | None, baseline: Estimate | None, *, lower: str, higher: str) -> Claim:
    """What two unpaired estimates say, less being better: only intervals that lie apart allow a claim."""
    if value is None or baseline is None or not value.value or not baseline.value:
        return Claim(text="no comparison: one side has too few values", tone="neutral")
    if _below(value, baseline) or _below(baseline, value):
        claim = claim_exact(value.value, baseline.value, lower=lower, higher=higher, better="lower")
        return Claim(text=f"{claim.text}, intervals apart", tone=claim.tone, amount=claim.amount)
    if None in (value.low, value.high, baseline.low, baseline.high):
        return Claim(text="no claim: too few values for intervals", tone="few")
    return Claim(text="no significant difference: intervals overlap", tone="unclear")


def claim_difference(difference: Estimate | None) -> Claim:
    """What a difference of two shares (treatment − baseline) says, in percentage points; more is better."""
    if difference is None:
        return Claim(text="no comparison: no request was judged in both arms", tone="neutral")
    value = f"{_points(difference.value)} points"
    if difference.low is None or difference.high is None:
        return Claim(text=f"no claim: {value}, too few values for an interval", tone="few")
    bounds = f"[{_points(difference.low)}, {_points(difference.high)}]"
    if difference.low <= 0 <= difference.high:
        return Claim(text=f"no significant difference: {value} {bounds}", tone="unclear")
    amount = f"{abs(100 * difference.value):.1f} points"
    if difference.value > 0:
        return Claim(text=f"{amount} more {bounds}", tone="better", amount=amount)
    return Claim(text=f"{amount} fewer {bounds}", tone="worse", amount=amount)


def _below(first: Estimate, second: Estimate) -> bool:
    return first.high is not None and second.low is not None and first.high < second.low


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _inverse(ratio: Estimate) -> Estimate:
    """The ratio seen from the other side; a bound of zero has no inverse."""
    low = 1 / ratio.high if ratio.high else None
    high = 1 / ratio.low if ratio.low else None
    return Estimate(value=1 / ratio.value if ratio.value else (low or 1.0), low=low, high=high)


def _bounds(estimate: Estimate) -> str:
    low, high = (format_number(bound, 2 if bound and bound < 10 else 3) for bound in (estimate.low, estimate.high))
    return f"[{low}, {high}]"
