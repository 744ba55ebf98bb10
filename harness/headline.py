"""The answer a run gives, in the order a reader asks: memory, waiting, switching, quality.

Console and report say it in the same words, and claim only what the intervals allow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.claims import Claim, claim_apart, claim_difference, claim_exact, claim_ratio
from harness.summary import (
    ArmSummary,
    Better,
    Comparison,
    Estimate,
    Headline,
    HeadlineRow,
    Quantiles,
    Summary,
    Unit,
)
from harness.units import format_bytes, format_plural, format_seconds, format_share
from harness.weights import Facts, serving_parts, whole_models_bytes

__all__ = [
    "SHAPES_ONLY",
    "accuracy_claim",
    "build_headline",
    "family_name",
    "has_answers",
    "headline_sentences",
    "latency_claim",
    "switch_claim",
    "usual_switch",
]

SHAPES_ONLY = "shapes only"
"""The kind of a family whose weights are random: it has bytes and speed, and no answers."""


@dataclass(frozen=True, slots=True)
class _Figure:
    metric: str
    label: str
    unit: Unit
    better: Better
    pick: Callable[[ArmSummary], float | None]


def build_headline(arms: Mapping[str, ArmSummary], family: Facts, comparison: Comparison | None = None) -> Headline:
    """The first arm against the second, whose `comparison` it is, or alone if there is no second."""
    names = [*arms, None, None]
    first, second = names[0], names[1]
    if first is None:
        return Headline(arm=None, baseline=None, sentences=(), rows=())
    arm, baseline = arms[first], arms[second] if second else None
    claims = {} if baseline is None else _claims(arm, baseline, comparison)
    memory = _all_experts(arm, family)
    figures = [figure for figure in _FIGURES if has_answers(family) or figure.metric not in _OF_ANSWERS]
    rows = (memory, *(_row(figure, arm, baseline, claims.get(figure.metric)) for figure in figures))
    if not has_answers(family):
        claims.pop("accuracy", None)
    sentences = (_memory(memory, family), *(_alone(arm) if baseline is None else _compared(claims)))
    return Headline(arm=first, baseline=second, sentences=tuple(s for s in sentences if s), rows=rows)


def has_answers(family: Facts) -> bool:
    """Whether answers of the family mean anything."""
    return family.get("kind") != SHAPES_ONLY


def family_name(family: Facts) -> str:
    """The family's name, and that it is shapes only if it is."""
    name = str(family.get("name") or "unnamed family")
    return name if has_answers(family) else f"{name} ({SHAPES_ONLY})"


def headline_sentences(summary: Summary) -> tuple[str, ...]:
    """What may be said of the run; of one that is not valid, that there is no answer."""
    if summary.headline.arm is None:
        return ("No answer: no arm ran",)
    if not summary.valid:
        return ("No answer: this run is not valid",)
    nothing = "No request was answered" if summary.headline.baseline is None else "No comparison is possible"
    return summary.headline.sentences or (nothing,)


def latency_claim(ratio: Estimate | None) -> Claim:
    """What a paired ratio of two latencies says."""
    return claim_ratio(ratio, lower="lower", higher="higher", better="lower")


def switch_claim(arm: ArmSummary, baseline: ArmSummary) -> Claim:
    """What the median switches of two arms say, which have no pairs."""
    if 0 in (arm.switches, baseline.switches):
        return Claim(text="no comparison: an arm did not switch", tone="neutral")
    return claim_apart(usual_switch(arm)[1], usual_switch(baseline)[1], lower="lower", higher="higher")


def accuracy_claim(comparison: Comparison | None) -> Claim:
    """What the right answers of two arms to the same requests say."""
    return claim_difference(comparison.accuracy_difference if comparison else None)


def usual_switch(arm: ArmSummary) -> tuple[str | None, Estimate | None]:
    """Where most of the arm's switches came from, and the median of those; two `None` without switches."""
    place = max(arm.switch_s, key=lambda name: arm.switch_s[name].n, default=None)
    if place is None or arm.switch_s[place].n == 0:
        return None, None
    return place, arm.switch_s[place].p50


def _claims(arm: ArmSummary, baseline: ArmSummary, comparison: Comparison | None) -> dict[str, Claim]:
    def counted(value: float | None, other: float | None) -> Claim:
        return claim_exact(value, other, lower="less", higher="more", better="lower")

    return {
        "weight_bytes": counted(_weight_total(arm), _weight_total(baseline)),
        "ttft_p50_s": latency_claim(comparison.ttft_p50 if comparison else None),
        "ttft_p99_s": latency_claim(comparison.ttft_p99 if comparison else None),
        "switch_p50_s": switch_claim(arm, baseline),
        "moved_bytes": counted(arm.moved_bytes, baseline.moved_bytes),
        "accuracy": accuracy_claim(comparison),
    }


def _row(figure: _Figure, arm: ArmSummary, baseline: ArmSummary | None, claim: Claim | None) -> HeadlineRow:
    value, other = figure.pick(arm), figure.pick(baseline) if baseline else None
    return HeadlineRow(
        metric=figure.metric,
        label=figure.label,
        unit=figure.unit,
        better=figure.better,
        value=value,
        baseline=other,
        ratio=value / other if value is not None and other else None,
        claim=claim.text if claim else "",
    )


def _all_experts(arm: ArmSummary, family: Facts) -> HeadlineRow:
    """All that serves every expert, against as many whole models beside the same router, which nobody loaded."""
    value, whole = sum(serving_parts(arm, family).values()) or None, whole_models_bytes(arm, family)
    return HeadlineRow(
        metric="all_experts_bytes",
        label="all experts / whole models",
        unit="bytes",
        better="lower",
        value=value,
        baseline=whole,
        ratio=value / whole if value and whole else None,
        claim=claim_exact(value, whole, lower="less", higher="more", better="lower").text,
    )


def _memory(row: HeadlineRow, family: Facts) -> str:
    experts = family.get("experts")
    if row.value is None or not isinstance(experts, int):
        return ""
    held = f"{format_plural(experts, 'expert')} in {format_bytes(row.value)}"
    claim = claim_exact(row.value, row.baseline, lower="less", higher="more", better="lower")
    return f"{held}, {claim.text} than as whole models ({format_bytes(row.baseline)})" if claim.amount else held


def _compared(claims: Mapping[str, Claim]) -> tuple[str, ...]:
    return (
        _said(claims["ttft_p50_s"], "first token", ("sooner", "later"), "time to first token"),
        _said(claims["switch_p50_s"], "a switch", ("faster", "slower"), "switch times"),
        _said(claims["accuracy"], "right answers", ("more", "fewer"), "right answers") if "accuracy" in claims else "",
    )


def _said(claim: Claim, what: str, words: tuple[str, str], noun: str) -> str:
    """The claim about `what` in a word for better or worse; empty where there is nothing to compare."""
    if claim.tone == "neutral":
        return ""
    if claim.tone == "few":
        return f"too few values to compare {noun}"
    if not claim.amount:
        return f"no significant difference in {noun}"
    return f"{what} {claim.amount} {words[claim.tone == 'worse']}"


def _alone(arm: ArmSummary) -> tuple[str, ...]:
    """What one arm did, without claiming that it is much or little."""
    ttft = arm.ttft_s.p50
    return (
        "" if ttft is None else f"first token after {format_seconds(ttft.value)} (median)",
        "" if arm.accuracy is None else f"{format_share(arm.accuracy.value)} right answers",
    )


def _weight_total(arm: ArmSummary) -> float | None:
    return arm.weight_bytes["total"] if arm.weight_bytes else None


def _median(values: Quantiles) -> float | None:
    return _value(values.p50)


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate else None


_OF_ANSWERS = frozenset({"accuracy", "correct_goodput_per_s"})

_FIGURES = (
    _Figure("weight_bytes", "weights in memory", "bytes", "lower", _weight_total),
    _Figure("ttft_p50_s", "first token, median", "s", "lower", lambda arm: _median(arm.ttft_s)),
    _Figure("ttft_p99_s", "first token, p99", "s", "lower", lambda arm: _value(arm.ttft_s.p99)),
    _Figure("switch_p50_s", "switch, median", "s", "lower", lambda arm: _value(usual_switch(arm)[1])),
    _Figure("switches", "switches", "count", "lower", lambda arm: arm.switches),
    _Figure("moved_bytes", "moved by switches", "bytes", "lower", lambda arm: arm.moved_bytes),
    _Figure("accuracy", "answers right", "share", "higher", lambda arm: _value(arm.accuracy)),
    _Figure(
        "correct_goodput_per_s",
        "right and in time",
        "per_s",
        "higher",
        lambda arm: _value(arm.correct_goodput_per_s),
    ),
)
