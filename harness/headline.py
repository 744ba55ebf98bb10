"""The answer a run gives, in the order a reader asks: memory, waiting, switching, quality."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.summary import ArmSummary, Better, Estimate, Headline, HeadlineRow, Quantiles, Unit

__all__ = ["MIB", "build_headline"]

MIB = 1024 * 1024
# ratios this close to 1 are not called faster or slower
ALIKE = 0.95


@dataclass(frozen=True, slots=True)
class _Figure:
    metric: str
    label: str
    unit: Unit
    better: Better
    pick: Callable[[ArmSummary], float | None]


def build_headline(arms: Mapping[str, ArmSummary], family: Mapping[str, str | int | float | None]) -> Headline:
    """The first arm against the second, or alone if there is no second."""
    names = [*arms, None, None]
    first, second = names[0], names[1]
    if first is None:
        return Headline(arm=None, baseline=None, sentences=(), rows=())
    rows = (
        _all_experts(family),
        *(_row(figure, arms[first], arms[second] if second else None) for figure in _FIGURES),
    )
    by_metric = {row.metric: row for row in rows}
    sentences = (
        _memory(by_metric["all_experts_bytes"], family),
        _compare("The first token of an answer", by_metric["ttft_p50_s"], second),
        _compare("A switch to another expert", by_metric["switch_p50_s"], second),
        _quality(by_metric["accuracy"], second),
        _goodput(by_metric["correct_goodput_per_s"], second),
    )
    return Headline(arm=first, baseline=second, sentences=tuple(s for s in sentences if s), rows=rows)


def _row(figure: _Figure, arm: ArmSummary, baseline: ArmSummary | None) -> HeadlineRow:
    return _ratio_row(figure, figure.pick(arm), figure.pick(baseline) if baseline else None)


def _ratio_row(figure: _Figure, value: float | None, other: float | None) -> HeadlineRow:
    return HeadlineRow(
        metric=figure.metric,
        label=figure.label,
        unit=figure.unit,
        better=figure.better,
        value=value,
        baseline=other,
        ratio=value / other if value is not None and other else None,
    )


def _memory(row: HeadlineRow, family: Mapping[str, str | int | float | None]) -> str | None:
    experts = family.get("experts")
    if row.value is None or row.baseline is None or row.ratio is None:
        return None
    return (
        f"Base and all {experts} experts take {row.value / MIB:.1f} MiB as compressed deltas, "
        f"{experts} whole models {row.baseline / MIB:.1f} MiB: {1 / row.ratio:.1f} times as much."
    )


def _all_experts(family: Mapping[str, str | int | float | None]) -> HeadlineRow:
    """By arithmetic: what must be held so that nothing is ever moved, as deltas and as whole models."""
    figure = _Figure("all_experts_bytes", "base and all experts", "bytes", "lower", _weight_total)
    experts, model, deltas = (family.get(name) for name in ("experts", "model_bytes", "delta_bytes"))
    if not (isinstance(experts, int) and isinstance(model, int) and isinstance(deltas, int)):
        return _ratio_row(figure, None, None)
    return _ratio_row(figure, model + deltas, experts * model)


def _compare(what: str, row: HeadlineRow, baseline: str | None) -> str | None:
    if row.value is None:
        return None
    if row.baseline is None or row.ratio is None or baseline is None:
        return f"{what} takes {_seconds(row.value)} (median)."
    change = f"{1 / row.ratio:.1f} times faster" if row.ratio <= 1 else f"{row.ratio:.1f} times slower"
    if ALIKE < row.ratio < 1 / ALIKE:
        change = "about the same"
    return f"{what} takes {_seconds(row.value)} (median), against {_seconds(row.baseline)} with {baseline}: {change}."


def _quality(row: HeadlineRow, baseline: str | None) -> str | None:
    if row.value is None:
        return None
    against = "" if row.baseline is None else f", against {row.baseline:.1%} with {baseline}"
    return f"{row.value:.1%} of all answers are right{against}."


def _goodput(row: HeadlineRow, baseline: str | None) -> str | None:
    if row.value is None:
        return None
    against = "" if row.baseline is None else f", against {row.baseline:.2f} with {baseline}"
    return f"{row.value:.2f} right answers a second arrive within their limits{against}."


def _seconds(value: float) -> str:
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def _weight_total(arm: ArmSummary) -> float | None:
    return arm.weight_bytes["total"] if arm.weight_bytes else None


def _median(values: Quantiles) -> float | None:
    return _value(values.p50)


def _switch_median(arm: ArmSummary) -> float | None:
    disk, host = arm.switch_s["disk"], arm.switch_s["host"]
    return _median(disk if disk.n >= host.n else host)


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate else None


_FIGURES = (
    _Figure("weight_bytes", "weights in memory", "bytes", "lower", _weight_total),
    _Figure("ttft_p50_s", "first token, median", "s", "lower", lambda arm: _median(arm.ttft_s)),
    _Figure("ttft_p99_s", "first token, p99", "s", "lower", lambda arm: _value(arm.ttft_s.p99)),
    _Figure("switch_p50_s", "switch, median", "s", "lower", _switch_median),
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
