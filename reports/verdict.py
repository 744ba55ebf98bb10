"""Whether a run may be quoted, and what a comparison may claim.

A difference counts only if its interval excludes "no difference"; otherwise the words are "no significant
difference", never "equal": absence of evidence is what a short run has most of.
"""

from dataclasses import dataclass
from typing import Literal

from harness.summary import Estimate, Summary
from reports.units import format_factor, format_number

__all__ = ["Claim", "Tone", "Verdict", "claim_difference", "claim_ratio", "run_verdict"]

Tone = Literal["better", "worse", "unclear", "neutral"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What two arms' figures allow to say, and whether that is good for the treatment."""

    text: str
    tone: Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The first line of a report: one word, one sentence, and every reason."""

    status: Literal["valid", "invalid", "partial"]
    title: str
    text: str
    reasons: tuple[str, ...]


def run_verdict(summary: Summary) -> Verdict:
    """Invalid outranks partial: a run that proves itself wrong is not rescued by being short."""
    if not summary.valid:
        partial = " The run is also partial: it was interrupted." if summary.partial else ""
        return Verdict(
            status="invalid",
            title="INVALID",
            text=f"This run does not meet its own checks. Do not quote its numbers.{partial}",
            reasons=summary.reasons,
        )
    if summary.partial:
        return Verdict(
            status="partial",
            title="PARTIAL",
            text="The run was interrupted. The numbers cover what had been recorded by then.",
            reasons=summary.notes,
        )
    return Verdict(status="valid", title="VALID", text="Every check of this run passed.", reasons=summary.notes)


def claim_ratio(ratio: Estimate | None, *, lower: str, higher: str, better: Literal["lower", "higher"]) -> Claim:
    """What `ratio` (treatment / baseline) says, in words such as "3.2× lower [2.9, 3.4]".

    Args:
        lower, higher: the words for a ratio below and above one.
        better: the direction that is good.
    """
    if ratio is None:
        return Claim(text="no comparison: one side has too few values", tone="neutral")
    if ratio.low is None or ratio.high is None:
        return Claim(text=f"ratio {format_factor(ratio.value)}, without an interval: no claim", tone="unclear")
    if ratio.low <= 1 <= ratio.high:
        text = f"no significant difference: ratio {format_factor(ratio.value)} {_bounds(ratio)}"
        return Claim(text=text, tone="unclear")
    is_lower = ratio.high < 1
    shown = _inverse(ratio) if is_lower else ratio
    tone: Tone = "better" if is_lower == (better == "lower") else "worse"
    return Claim(text=f"{format_factor(shown.value)} {lower if is_lower else higher} {_bounds(shown)}", tone=tone)


def claim_difference(difference: Estimate | None) -> Claim:
    """What a difference of two shares (treatment − baseline) says, in percentage points; more is better."""
    if difference is None:
        return Claim(text="no comparison: no request was judged in both arms", tone="neutral")
    value = f"{100 * difference.value:+.1f} points"
    if difference.low is None or difference.high is None:
        return Claim(text=f"{value}, without an interval: no claim", tone="unclear")
    bounds = f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    if difference.low <= 0 <= difference.high:
        return Claim(text=f"no significant difference: {value} {bounds}", tone="unclear")
    if difference.value > 0:
        return Claim(text=f"{value} {bounds}: more right answers", tone="better")
    return Claim(text=f"{value} {bounds}: fewer right answers", tone="worse")


def _inverse(ratio: Estimate) -> Estimate:
    """The ratio seen from the other side; only for ratios with both bounds above zero, else unbounded above."""
    low = 1 / ratio.high if ratio.high else 0.0
    high = 1 / ratio.low if ratio.low else None
    return Estimate(value=1 / ratio.value if ratio.value else low, low=low, high=high)


def _bounds(estimate: Estimate) -> str:
    low, high = (format_number(bound, 2 if bound and bound < 10 else 3) for bound in (estimate.low, estimate.high))
    return f"[{low}, {high}]"
