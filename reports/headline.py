"""The answer in one sentence: what may be claimed, in the order a reader asks, and nothing more."""

from harness.headline import family_name, headline_sentences
from harness.units import format_plural
from reports.source import RunSource

__all__ = ["caveat", "headline", "subject"]


def subject(source: RunSource) -> str:
    """What was measured: family, experts and arms."""
    name = family_name(source.summary.family)
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
    return "; ".join(headline_sentences(source.summary))
