"""The first screen: four comparisons that answer what serving experts as compressed deltas costs and brings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.claims import Claim, claim_exact
from harness.headline import accuracy_claim, has_answers, latency_claim, switch_claim, usual_switch
from harness.summary import ArmSummary, Comparison, Estimate, Quantiles
from harness.units import (
    format_bytes,
    format_count,
    format_interval,
    format_plural,
    format_rate,
    format_seconds,
    format_share,
)
from harness.weights import WORKING_PARTS, serving_parts, weight_parts, whole_models_bytes
from reports.source import RunSource

__all__ = ["Card", "Group", "Row", "answer_cards"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One bar of a card.

    Attributes:
        value: as text, with its unit; `interval` in brackets or empty.
        segments: `(role, share of the card's widest bar)` from left to right; empty for an undefined value.
        kind: `treatment`, `baseline` or `computed` (nobody measured it).
    """

    label: str
    value: str
    interval: str
    segments: tuple[tuple[str, float], ...]
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows on one scale, under a title that may be empty, and what they allow to say."""

    title: str
    rows: tuple[Row, ...]
    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One of the four answers: a headline figure, the groups behind it and a note.

    Attributes:
        legend: `(role, part, size)` of what the first bar consists of.
    """

    key: str
    title: str
    figure: str
    interval: str
    caption: str
    groups: tuple[Group, ...]
    note: str
    legend: tuple[tuple[str, str, str], ...] = ()


def answer_cards(source: RunSource) -> tuple[Card, ...]:
    """Memory, time to first token, switch cost, and right answers where there are any; empty if no arm ran."""
    arm = source.arm(source.treatment)
    if arm is None:
        return ()
    baseline = source.arm(source.baseline)
    cards = (
        _memory_card(source, arm, baseline),
        _ttft_card(source, arm, baseline),
        _switch_card(source, arm, baseline),
    )
    # random weights have no right answers, and no card that says so with a dash
    return (*cards, _correct_card(source, arm, baseline)) if has_answers(source.summary.family) else cards


def _memory_card(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> Card:
    parts, whole = serving_parts(arm, source.manifest.family), whole_models_bytes(arm, source.manifest.family)
    kept = {part: size for part, size in parts.items() if part not in WORKING_PARTS}
    count = format_plural(source.expert_count, "whole model")
    bars: list[tuple[str, Mapping[str, int], str]] = [(f"{source.treatment}, all experts", parts, "treatment")]
    if whole is not None:
        bars.append((count, {"experts": whole}, "computed"))
    if baseline is not None:
        bars.append((f"{source.baseline}, what fits", weight_parts(baseline), "baseline"))
    widest = max([sum(sizes.values()) for _, sizes, _ in bars] + [1])
    words = {"lower": f"less than {count}", "higher": f"more than {count}"}
    claim = claim_exact(sum(parts.values()), whole, better="lower", **words)
    groups = [Group(title="all weights", rows=_memory_rows(bars, widest), claim=claim)]
    if kept != parts:
        rows = _memory_rows([(source.treatment or "", kept, "treatment")], widest)
        kept_claim = claim_exact(sum(kept.values()), whole, better="lower", **words)
        groups.append(Group(title="without the dense cache", rows=rows, claim=kept_claim))
    return Card(
        key="memory",
        title="Weight memory",
        figure=format_bytes(sum(parts.values()) if parts else None),
        interval="",
        caption=f"for {format_plural(source.expert_count, 'expert')}, base and router; counted, not sampled",
        groups=tuple(groups),
        legend=tuple(
            (_PART_ROLES.get(p, "baseline-2"), p.replace("_", " "), format_bytes(n)) for p, n in parts.items()
        ),
        note=" ".join(
            part for part in (_budget_note(arm, baseline), _codes_note(source, arm), _codec_note(source)) if part
        ),
    )


_PART_ROLES = {"base": "treatment", "codes": "treatment-2", "dense_cache": "treatment-3"}


def _memory_rows(bars: list[tuple[str, Mapping[str, int], str]], widest: int) -> tuple[Row, ...]:
    return tuple(
        Row(
            label=label,
            value=format_bytes(sum(sizes.values()) if sizes else None),
            interval="",
            segments=tuple(
                (_PART_ROLES.get(part, "baseline-2" if kind == "treatment" else "baseline"), size / widest)
                for part, size in sizes.items()
            ),
            kind=kind,
        )
        for label, sizes, kind in bars
    )


def _budget_note(arm: ArmSummary, baseline: ArmSummary | None) -> str:
    budgets = [format_bytes(figures.budget_bytes) for figures in (arm, baseline) if figures is not None]
    if len(set(budgets)) == 1:
        return f"Memory budget of every arm: {budgets[0]}."
    return f"Memory budgets: {' and '.join(budgets)}."


def _codes_note(source: RunSource, arm: ArmSummary) -> str:
    held, counted = weight_parts(arm).get("codes", 0), serving_parts(arm, source.manifest.family).get("codes", 0)
    if held == counted:
        return ""
    return f"Codes of all experts; this run loaded {format_bytes(held)} of them."


def _codec_note(source: RunSource) -> str:
    """The codec, and how large all deltas are: linear weights only, and whole experts."""
    family = source.manifest.family
    sizes = family.get("delta_bytes_linears"), family.get("delta_bytes")
    if not all(isinstance(size, int) for size in sizes):
        return ""
    linears, whole = (format_bytes(float(size)) for size in sizes if size is not None)
    # the first option tells the codecs apart; the rest stands in the provenance
    codec = str(family.get("codec")).split(",")[0]
    return f"Deltas by {codec}: {linears} of linear weights, {whole} in all."


def _ttft_card(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> Card:
    pair = source.comparison
    tail = "p99" if arm.ttft_s.p99 is not None or arm.ttft_s.p90 is None else "p90"
    ratios = {name: getattr(pair, f"ttft_{name}", None) for name in ("p50", tail)}
    groups = [
        _quantile_group(source, percentile, arm.ttft_s, baseline.ttft_s if baseline else None, ratios.get(percentile))
        for percentile in ("p50", tail)
    ]
    return Card(
        key="ttft",
        title="Time to first token",
        figure=format_seconds(_value(arm.ttft_s.p50)),
        interval=format_interval(arm.ttft_s.p50, "seconds"),
        caption="median, from the scheduled time, routing and switching included",
        groups=tuple(groups),
        note=_missing_note(arm, baseline),
    )


def _quantile_group(
    source: RunSource, percentile: str, mine: Quantiles, other: Quantiles | None, ratio: Estimate | None
) -> Group:
    named = [(source.treatment or "", getattr(mine, percentile), "treatment")]
    if other is not None:
        named.append((source.baseline or "", getattr(other, percentile), "baseline"))
    return Group(title=percentile, rows=_seconds_rows(named), claim=_speed_claim(source, ratio))


def _speed_claim(source: RunSource, ratio: Estimate | None) -> Claim:
    if source.baseline is None:
        return Claim(text="no baseline in this run", tone="neutral")
    return latency_claim(ratio)


def _seconds_rows(named: list[tuple[str, Estimate | None, str]]) -> tuple[Row, ...]:
    return _estimate_rows(named, format_seconds, "seconds")


def _estimate_rows(
    named: list[tuple[str, Estimate | None, str]], shown: Callable[[float | None], str], unit: str
) -> tuple[Row, ...]:
    """A bar for each label, estimate and kind, on the scale of the largest."""
    widest = max([estimate.value for _, estimate, _ in named if estimate is not None] + [1e-9])
    return tuple(
        Row(
            label=label,
            value=shown(_value(estimate)),
            interval=format_interval(estimate, unit),
            segments=() if estimate is None else ((kind, estimate.value / widest),),
            kind=kind,
        )
        for label, estimate, kind in named
    )


def _missing_note(arm: ArmSummary, baseline: ArmSummary | None) -> str:
    """How many requests have no first token: they are in every count but in no percentile."""
    arms = [figures for figures in (arm, baseline) if figures is not None]
    missing = [figures.requests.scheduled - figures.ttft_s.n for figures in arms]
    if not any(missing):
        return "Every scheduled request got a first token."
    return "Without a first token: " + " and ".join(
        f"{format_count(lost)} of {format_count(figures.requests.scheduled)}"
        for lost, figures in zip(missing, arms, strict=True)
    )


def _switch_card(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> Card:
    place, p50 = _usual_switch(arm)
    named = [(f"{source.treatment}{place}", p50, "treatment")]
    claim = Claim(text="no baseline in this run", tone="neutral")
    if baseline is not None:
        other_place, other = _usual_switch(baseline)
        named.append((f"{source.baseline}{other_place}", other, "baseline"))
        claim = switch_claim(arm, baseline)
    moved = Claim(text="", tone="neutral")
    if baseline is not None:
        moved = claim_exact(arm.moved_bytes, baseline.moved_bytes, lower="less", higher="more", better="lower")
    return Card(
        key="switch",
        title="Cost of a switch",
        figure="none" if arm.switches == 0 else format_seconds(_value(p50)),
        interval=format_interval(p50, "seconds"),
        caption="no request waited for a switch" if arm.switches == 0 else "median, decision to ready",
        groups=(
            Group(title="p50", rows=_seconds_rows(named), claim=claim),
            Group(title="moved in the whole run", rows=_moved_rows(source, arm, baseline), claim=moved),
        ),
        note=_switch_note(source, arm, baseline),
    )


def _usual_switch(arm: ArmSummary) -> tuple[str, Estimate | None]:
    """Where most of the arm's switches came from, as words, and the median of those."""
    place, p50 = usual_switch(arm)
    return "" if place is None else f", from {place}", p50


def _moved_rows(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> tuple[Row, ...]:
    named = [(source.treatment or "", arm, "treatment")]
    if baseline is not None:
        named.append((source.baseline or "", baseline, "baseline"))
    widest = max([figures.moved_bytes for _, figures, _ in named] + [1])
    return tuple(
        Row(
            label=label,
            value=format_bytes(figures.moved_bytes),
            interval=f"in {format_count(figures.switches)} switch{'' if figures.switches == 1 else 'es'}",
            segments=((kind, figures.moved_bytes / widest),),
            kind=kind,
        )
        for label, figures, kind in named
    )


def _switch_note(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> str:
    rates = [f"{source.treatment} {format_share(_value(arm.hit_rate))}"]
    if baseline is not None:
        rates.append(f"{source.baseline} {format_share(_value(baseline.hit_rate))}")
    return f"Found resident at admission: {', '.join(rates)} of requests."


def _correct_card(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> Card:
    pair = source.comparison
    named = [(source.treatment or "", arm.accuracy, "treatment")]
    if baseline is not None:
        named.append((source.baseline or "", baseline.accuracy, "baseline"))
    claim = Claim(text="no baseline in this run", tone="neutral")
    if baseline is not None:
        claim = accuracy_claim(pair)
    return Card(
        key="correct",
        title="Right answers",
        figure=format_share(_value(arm.accuracy)),
        interval=format_interval(arm.accuracy, "share"),
        caption="of all requests, as the task's verifier judges",
        groups=(
            Group(title="all experts", rows=tuple(_share_row(*entry) for entry in named), claim=claim),
            _goodput_group(source, arm, baseline),
        ),
        note=_correct_note(arm, pair),
    )


def _correct_note(arm: ArmSummary, pair: Comparison | None) -> str:
    router = f"Router right: {format_share(_value(arm.router_accuracy))} of requests."
    if pair is None or pair.equal_outputs is None:
        return router
    return f"{router} Same output in both arms: {format_share(pair.equal_outputs.value)} of those both answered."


def _share_row(label: str, estimate: Estimate | None, kind: str) -> Row:
    return Row(
        label=label,
        value=format_share(_value(estimate)),
        interval=format_interval(estimate, "share"),
        segments=() if estimate is None else ((kind, estimate.value),),
        kind=kind,
    )


def _goodput_group(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> Group:
    """Right and within the SLO, per second: the figure that joins quality and speed."""
    named = [(source.treatment or "", arm.correct_goodput_per_s, "treatment")]
    if baseline is not None:
        named.append((source.baseline or "", baseline.correct_goodput_per_s, "baseline"))
    rows = _estimate_rows(named, format_rate, "number")
    return Group(title="right and within the SLO, per second", rows=rows, claim=Claim(text="", tone="neutral"))


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value
