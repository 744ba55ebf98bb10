"""The answer in one sentence: what may be claimed, in the order a reader asks, and nothing more."""

from reports.answer import answer_cards
from reports.source import RunSource
from reports.units import format_bytes, format_plural, format_seconds, format_share
from reports.verdict import Claim, claim_exact
from reports.weights import serving_parts, whole_models_bytes

__all__ = ["caveat", "headline", "subject"]

_UNCLEAR = "no significant difference in"


def subject(source: RunSource) -> str:
    """What was measured: family, experts and arms."""
    name = source.summary.family.get("name") or "unnamed family"
    experts = f"{name}: {format_plural(source.expert_count, 'expert')}"
    if source.treatment is None:
        return f"{experts}, no arm ran"
    if source.baseline is None:
        return f"{experts} served by {source.treatment}, no baseline beside it"
    return f"{experts} served by {source.treatment}, against {source.baseline}"


def caveat(source: RunSource) -> str:
    """What the family is, and that a run without a GPU says nothing about one."""
    family = source.summary.family
    note = str(family.get("note") or "")
    if not source.has_gpu and "say nothing about a GPU" not in note:
        note = "; ".join(part for part in (note, "timings on a CPU say nothing about a GPU") if part)
    return f"{family.get('name') or 'unnamed family'}: {note}" if note else ""


def headline(source: RunSource) -> str:
    """One sentence of claims; of a run that is not valid, that there is no answer."""
    if source.treatment is None:
        return "No answer: no arm ran"
    if not source.summary.valid:
        return "No answer: this run is not valid"
    if source.baseline is None:
        return _alone(source)
    claims = {card.key: card.groups[0].claim for card in answer_cards(source)}
    parts = [
        _memory(source),
        _faster(claims["ttft"], "first token", ("sooner", "later"), "time to first token"),
        _faster(claims["switch"], "a switch", ("faster", "slower"), "switch times"),
        _quality(claims["correct"]),
    ]
    return "; ".join(part for part in parts if part) or "No comparison is possible"


def _memory(source: RunSource) -> str:
    total, whole = sum(serving_parts(source).values()), whole_models_bytes(source)
    claim = claim_exact(total, whole, lower="less", higher="more", better="lower")
    experts = format_plural(source.expert_count, "expert")
    if whole is None or not claim.amount:
        return f"{experts} in {format_bytes(total)}" if total else ""
    than = "less" if claim.tone == "better" else "more"
    return f"{experts} in {format_bytes(total)}, {claim.amount} {than} than as whole models ({format_bytes(whole)})"


def _faster(claim: Claim, what: str, words: tuple[str, str], noun: str) -> str:
    if claim.tone == "neutral":
        return ""
    if claim.tone == "few":
        return f"too few values to compare {noun}"
    if not claim.amount:
        return f"{_UNCLEAR} {noun}"
    return f"{what} {claim.amount} {words[claim.tone == 'worse']}"


def _quality(claim: Claim) -> str:
    if claim.tone == "neutral":
        return ""
    if claim.tone == "few":
        return "too few values to compare right answers"
    if not claim.amount:
        return f"{_UNCLEAR} right answers"
    return f"right answers {claim.amount} {'more' if claim.tone == 'better' else 'fewer'}"


def _alone(source: RunSource) -> str:
    """What one arm did, without claiming that it is much or little."""
    arm = source.summary.arms[source.treatment or ""]
    parts = [_memory(source)]
    if arm.ttft_s.p50 is not None:
        parts.append(f"first token after {format_seconds(arm.ttft_s.p50.value)} (median)")
    if arm.accuracy is not None:
        parts.append(f"{format_share(arm.accuracy.value)} right answers")
    return "; ".join(part for part in parts if part) or "No request was answered"
