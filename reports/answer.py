"""The first screen: four comparisons that answer what serving experts as compressed deltas costs and brings."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.summary import ArmSummary, Comparison, Estimate, Quantiles
from reports.source import RunSource
from reports.units import format_bytes, format_count, format_interval, format_rate, format_seconds, format_share
from reports.verdict import Claim, claim_difference, claim_ratio

__all__ = ["Card", "Group", "Row", "answer_cards", "answer_line", "weight_parts", "whole_models_bytes"]


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
    """One of the four answers: a headline figure, the groups behind it and a note."""

    key: str
    title: str
    figure: str
    interval: str
    caption: str
    groups: tuple[Group, ...]
    note: str


def answer_cards(source: RunSource) -> tuple[Card, ...]:
    """Memory, time to first token, switch cost, right answers; empty if no arm ran."""
    arm = source.arm(source.treatment)
    if arm is None:
        return ()
    baseline = source.arm(source.baseline)
    return (
        _memory_card(source, arm, baseline),
        _ttft_card(source, arm, baseline),
        _switch_card(source, arm, baseline),
        _correct_card(source, arm, baseline),
    )


def answer_line(source: RunSource) -> str:
    """The question with this run's names and numbers in it: the page's first sentence."""
    count = source.expert_count
    name = source.summary.family.get("name") or "unnamed family"
    experts = "1 expert" if count == 1 else f"{count} experts"
    if source.treatment is None:
        return f"{name}: no arm ran"
    if source.baseline is None:
        return f"{name}: {experts} served by {source.treatment}, with no baseline beside it"
    return f"{name}: {experts} served by {source.treatment}, against {source.baseline}"


def whole_models_bytes(source: RunSource) -> int | None:
    """What as many whole models as there are experts would take beside the same router.

    `experts × bytes of one whole model + router`: by arithmetic, nobody loaded them. One whole model is as large as
    the family says, or as the base, whose shape every expert has; `None` if neither is known.
    """
    arm = source.arm(source.treatment)
    weights = (arm.weight_bytes if arm else None) or {}
    model = source.manifest.family.get("model_bytes") or weights.get("base")
    if not isinstance(model, int) or not source.expert_count:
        return None
    return source.expert_count * model + weights.get("router", 0)


def weight_parts(arm: ArmSummary | None) -> dict[str, int]:
    """Bytes by part of an arm's weights, in the order given, without the total."""
    if arm is None or arm.weight_bytes is None:
        return {}
    return {part: size for part, size in arm.weight_bytes.items() if part != "total" and size}


def _memory_card(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> Card:
    parts, count = weight_parts(arm), source.expert_count
    total = sum(parts.values()) if parts else None
    whole = whole_models_bytes(source)
    others = weight_parts(baseline)
    bars: list[tuple[str, Mapping[str, int], str]] = [(source.treatment or "", parts, "treatment")]
    if whole is not None:
        bars.append((f"{count} whole models", {"experts": whole}, "computed"))
    if baseline is not None:
        bars.append((source.baseline or "", others, "baseline"))
    widest = max([sum(sizes.values()) for _, sizes, _ in bars] + [1])
    rows = tuple(_memory_row(label, sizes, kind, widest) for label, sizes, kind in bars)
    return Card(
        key="memory",
        title="Weight memory",
        figure=format_bytes(total),
        interval="",
        caption=f"for {count} experts, base and router",
        groups=(Group(title="", rows=rows, claim=_memory_claim(total, whole, count)),),
        note=_memory_note(parts, arm, baseline),
    )


def _memory_row(label: str, sizes: Mapping[str, int], kind: str, widest: int) -> Row:
    roles = {"base": "treatment", "codes": "treatment-2", "dense_cache": "treatment-3"}
    fallback = "baseline-2" if kind == "treatment" else "baseline"
    segments = tuple((roles.get(part, fallback), size / widest) for part, size in sizes.items())
    total = sum(sizes.values()) if sizes else None
    return Row(label=label, value=format_bytes(total), interval="", segments=segments, kind=kind)


def _memory_claim(total: int | None, whole: int | None, count: int) -> Claim:
    """Bytes are counted, not sampled: the ratio has no interval and needs none."""
    if not total or not whole:
        return Claim(text="no comparison: the arms' bytes are not known", tone="neutral")
    exact = Estimate(value=total / whole, low=total / whole, high=total / whole)
    words = {"lower": f"less than {count} whole models", "higher": f"more than {count} whole models"}
    if total == whole:
        return Claim(text=f"as much as {count} whole models", tone="unclear")
    claim = claim_ratio(exact, lower=words["lower"], higher=words["higher"], better="lower")
    return Claim(text=claim.text.rsplit(" [", 1)[0], tone=claim.tone)


def _memory_note(parts: Mapping[str, int], arm: ArmSummary, baseline: ArmSummary | None) -> str:
    listed = " + ".join(f"{part.replace('_', ' ')} {format_bytes(size)}" for part, size in parts.items())
    budgets = [figures.budget_bytes for figures in (arm, baseline) if figures is not None]
    if None in budgets or not budgets:
        return listed
    same = "each arm may use" if len(set(budgets)) == 1 else "the arms may use"
    return f"{listed}. Budget: {same} {' and '.join(dict.fromkeys(format_bytes(b) for b in budgets))}."


def _ttft_card(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> Card:
    pair = source.comparison
    tail = "p99" if arm.ttft_s.p99 is not None or arm.ttft_s.p90 is None else "p90"
    ratios = {"p50": pair.ttft_p50 if pair else None, "p99": pair.ttft_p99 if pair else None}
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
    return claim_ratio(ratio, lower="lower", higher="higher", better="lower")


def _seconds_rows(named: list[tuple[str, Estimate | None, str]]) -> tuple[Row, ...]:
    widest = max([estimate.value for _, estimate, _ in named if estimate is not None] + [1e-9])
    return tuple(
        Row(
            label=label,
            value=format_seconds(_value(estimate)),
            interval=format_interval(estimate, "seconds"),
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
    pair = source.comparison
    place, mine = _usual_source(arm)
    named = [(f"{source.treatment}{place}", mine.p50 if mine else None, "treatment")]
    if baseline is not None:
        other_place, other = _usual_source(baseline)
        named.append((f"{source.baseline}{other_place}", other.p50 if other else None, "baseline"))
    claim = _speed_claim(source, pair.switch_p50 if pair else None)
    if arm.switches == 0 or (baseline is not None and baseline.switches == 0):
        claim = Claim(text="no comparison: an arm did not switch", tone="neutral")
    p50 = mine.p50 if mine else None
    return Card(
        key="switch",
        title="Cost of a switch",
        figure="none" if arm.switches == 0 else format_seconds(_value(p50)),
        interval=format_interval(p50, "seconds"),
        caption="no request waited for a switch" if arm.switches == 0 else "median, decision to ready",
        groups=(
            Group(title="p50", rows=_seconds_rows(named), claim=claim),
            Group(title="moved in the whole run", rows=_moved_rows(source, arm, baseline), claim=_moved_claim(pair)),
        ),
        note=_switch_note(source, arm, baseline),
    )


def _usual_source(arm: ArmSummary) -> tuple[str, Quantiles | None]:
    """Where most of the arm's switches came from, as words, and how long those took."""
    if not any(quantiles.n for quantiles in arm.switch_s.values()):
        return "", None
    place = max(arm.switch_s, key=lambda name: arm.switch_s[name].n)
    return f", from {place}", arm.switch_s[place]


def _moved_rows(source: RunSource, arm: ArmSummary, baseline: ArmSummary | None) -> tuple[Row, ...]:
    named = [(source.treatment or "", arm, "treatment")]
    if baseline is not None:
        named.append((source.baseline or "", baseline, "baseline"))
    widest = max([figures.moved_bytes for _, figures, _ in named] + [1])
    return tuple(
        Row(
            label=label,
            value=format_bytes(figures.moved_bytes),
            interval=f"in {format_count(figures.switches)} switches",
            segments=((kind, figures.moved_bytes / widest),),
            kind=kind,
        )
        for label, figures, kind in named
    )


def _moved_claim(pair: Comparison | None) -> Claim:
    if pair is None or not pair.moved_bytes:
        return Claim(text="no comparison of bytes moved", tone="neutral")
    exact = Estimate(value=pair.moved_bytes, low=pair.moved_bytes, high=pair.moved_bytes)
    claim = claim_ratio(exact, lower="less", higher="more", better="lower")
    return Claim(text=claim.text.rsplit(" [", 1)[0], tone=claim.tone)


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
        claim = claim_difference(pair.accuracy_difference if pair else None)
    return Card(
        key="correct",
        title="Right answers",
        figure=format_share(_value(arm.accuracy)),
        interval=format_interval(arm.accuracy, "share"),
        caption="of scheduled requests, as the task's verifier judges",
        groups=(
            Group(title="all experts", rows=tuple(_share_row(*entry) for entry in named), claim=claim),
            _goodput_group(source, arm, baseline),
        ),
        note=f"Router right: {format_share(_value(arm.router_accuracy))} of requests.",
    )


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
    widest = max([estimate.value for _, estimate, _ in named if estimate is not None] + [1e-9])
    rows = tuple(
        Row(
            label=label,
            value=format_rate(_value(estimate)),
            interval=format_interval(estimate, "number"),
            segments=() if estimate is None else ((kind, estimate.value / widest),),
            kind=kind,
        )
        for label, estimate, kind in named
    )
    return Group(title="right and within the SLO, per second", rows=rows, claim=Claim(text="", tone="neutral"))


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value
