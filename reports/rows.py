"""The tables of the page: numbers already turned into text, one cell an arm."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from harness.headline import has_answers
from harness.summary import ArmSummary, Estimate, ExpertSummary, Quantiles
from harness.units import (
    format_bytes,
    format_count,
    format_interval,
    format_number,
    format_rate,
    format_seconds,
    format_share,
)
from reports.source import RunSource

__all__ = [
    "Cell",
    "ExpertRow",
    "MetricRow",
    "client_rows",
    "expert_headings",
    "expert_rows",
    "metric_rows",
    "provenance_rows",
]


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as text, and its interval in brackets or nothing."""

    value: str
    interval: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One metric: its name and a cell for each arm, in the order of the source's arms."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRow:
    """One expert: for each arm, a cell for each of `expert_headings`."""

    expert: str
    cells: tuple[tuple[Cell, ...], ...]


_FORMATS: Mapping[str, Callable[[float | None], str]] = {
    "seconds": format_seconds,
    "share": format_share,
    "number": format_rate,
}


def metric_rows(source: RunSource) -> list[MetricRow]:
    """Every figure of the summary, arm beside arm."""
    rows = [
        _row(source, "requests scheduled", lambda arm: Cell(format_count(arm.requests.scheduled))),
        _row(source, "… ok, failed, timed out, unsent, cancelled", lambda arm: Cell(_outcomes(arm))),
        *_answer_rows(source),
        _estimates(source, "within the SLO", "slo_attainment", "share"),
        _estimates(source, "goodput", "goodput_per_s", "number"),
        _estimates(source, "output tokens", "output_tokens_per_s", "number"),
        _estimates(source, "found resident at admission", "hit_rate", "share"),
    ]
    for label, name in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("end to end", "e2e_s"), ("routing", "route_s")):
        rows += _percentile_rows(source, label, attrgetter(name))
    for place in sorted({place for arm in source.summary.arms.values() for place in arm.switch_s}):
        rows += _percentile_rows(source, f"switch from {place}", partial(_switch_times, place))
    return [*rows, *_byte_rows(source)]


def _answer_rows(source: RunSource) -> list[MetricRow]:
    """What random weights have none of."""
    if not has_answers(source.summary.family):
        return []
    return [
        _estimates(source, "right answers", "accuracy", "share"),
        _estimates(source, "router right", "router_accuracy", "share"),
        _estimates(source, "correct goodput", "correct_goodput_per_s", "number"),
    ]


def _byte_rows(source: RunSource) -> list[MetricRow]:
    rows = [
        _row(source, "switches", lambda arm: Cell(format_count(arm.switches))),
        _row(source, "bytes moved by switches", lambda arm: Cell(format_bytes(arm.moved_bytes))),
    ]
    parts = dict.fromkeys(part for arm in source.summary.arms.values() for part in arm.weight_bytes or {})
    for part in sorted(parts, key=lambda part: part == "total"):
        rows.append(_row(source, f"weights: {part.replace('_', ' ')}", partial(_weights, part)))
    return [
        *rows,
        *_gpu_rows(source),
        _row(source, "memory budget of the weights", lambda arm: Cell(format_bytes(arm.budget_bytes))),
        _row(source, "keys and values", lambda arm: Cell(format_bytes(arm.kv_bytes))),
        _row(source, "engine process, highest resident set", lambda arm: Cell(format_bytes(arm.process_bytes))),
    ]


def _gpu_rows(source: RunSource) -> list[MetricRow]:
    """What NVML said, where there is a GPU."""
    if not any(arm.resources.gpu_memory_bytes is not None for arm in source.summary.arms.values()):
        return []
    return [
        _row(source, "GPU memory of the engine, by NVML", lambda a: Cell(format_bytes(a.resources.gpu_used_bytes))),
        _row(source, "GPU memory of the device, by NVML", lambda a: Cell(format_bytes(a.resources.gpu_memory_bytes))),
        _row(source, "GPU busy", lambda a: Cell(format_share(a.resources.gpu_utilisation))),
        _row(source, "GPU power, W", lambda a: Cell(format_number(a.resources.gpu_power_w))),
        _row(source, "GPU energy, J", lambda a: Cell(format_number(a.resources.gpu_energy_j))),
        _row(source, "GPU clocks, lowest, MHz", lambda a: Cell(_clocks(a))),
        _row(source, "GPU clocks held back", lambda a: Cell(format_share(a.resources.gpu_throttled_share))),
        _row(source, "GPU at its power limit", lambda a: Cell(format_share(a.resources.gpu_power_limited_share))),
    ]


def _clocks(arm: ArmSummary) -> str:
    core, memory = arm.resources.gpu_sm_clock_mhz, arm.resources.gpu_memory_clock_mhz
    return f"{format_count(core)} / {format_count(memory)}"


def _switch_times(place: str, arm: ArmSummary) -> Quantiles | None:
    return arm.switch_s.get(place)


def _weights(part: str, arm: ArmSummary) -> Cell:
    return Cell(format_bytes((arm.weight_bytes or {}).get(part)))


def client_rows(source: RunSource) -> list[MetricRow]:
    """How the client and the machine fared."""
    rows = _percentile_rows(source, "send lag", lambda arm: arm.send_lag_s)
    rows += _percentile_rows(source, "client loop lag", lambda arm: arm.client.loop_lag_s)
    return [
        *rows,
        _row(source, "client CPU, of one core", lambda arm: Cell(format_share(arm.client.cpu_share))),
        _row(source, "engine CPU, of one core", lambda arm: Cell(format_share(arm.resources.engine_cpu_share))),
        _row(source, "window", lambda arm: Cell(format_seconds(arm.window_s))),
        _row(source, "duration", lambda arm: Cell(format_seconds(arm.duration_s))),
    ]


def expert_headings(source: RunSource) -> tuple[str, ...]:
    """What is said of an expert in each arm; nothing of answers where those mean nothing."""
    answers = ("right", "router right") if has_answers(source.summary.family) else ()
    return ("requests", *answers, "TTFT p50", "switches")


def expert_rows(source: RunSource) -> list[ExpertRow]:
    """One row an expert that was asked for; an arm that never met it has dashes."""
    headings = expert_headings(source)
    names = sorted({name for arm in source.summary.arms.values() for name in arm.by_expert})
    return [
        ExpertRow(
            expert=name,
            cells=tuple(_expert_cells(source.summary.arms[arm].by_expert.get(name), headings) for arm in source.arms),
        )
        for name in names
    ]


def provenance_rows(source: RunSource) -> Iterator[tuple[str, str]]:
    """What ran, where and with what, as label and text."""
    manifest = source.manifest
    yield "run", f"{manifest.run_id}, started {manifest.created}, {manifest.status}"
    yield "command", " ".join(manifest.command)
    yield "family", ", ".join(f"{key}: {value}" for key, value in manifest.family.items())
    yield "trace", ", ".join(f"{key}: {value}" for key, value in manifest.trace.items())
    for arm in sorted(manifest.arms, key=lambda arm: arm.order):
        warm = f"{arm.warm_up_requests} warm-up requests, page cache {arm.page_cache}"
        stopped = f", stopped early: {arm.stopped}" if arm.stopped else ""
        yield f"arm {arm.order + 1}: {arm.name}", f"{arm.description}; {warm}{stopped}"
    for key, value in manifest.provenance.items():
        yield key.replace("_", " "), _plain(key, value)


def _plain(key: str, value: Any) -> str:
    if value is None:
        return "none" if key == "gpu" else "unknown"
    if key.endswith("_bytes") and isinstance(value, int):
        return format_bytes(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(name, part)}" for name, part in value.items())
    return str(value)


def _row(source: RunSource, label: str, cell: Callable[[ArmSummary], Cell]) -> MetricRow:
    return MetricRow(label=label, cells=tuple(cell(source.summary.arms[arm]) for arm in source.arms))


def _estimates(source: RunSource, label: str, name: str, kind: str) -> MetricRow:
    return _row(source, label, lambda arm: _cell(getattr(arm, name), kind))


def _percentile_rows(source: RunSource, label: str, read: Callable[[ArmSummary], Quantiles | None]) -> list[MetricRow]:
    def row(percentile: str) -> MetricRow:
        return _row(source, f"{label} {percentile}", lambda arm: _cell(getattr(read(arm), percentile, None), "seconds"))

    if not any(getattr(read(arm), "n", 0) for arm in source.summary.arms.values()):
        return []
    return [row(percentile) for percentile in ("p50", "p90", "p99")]


def _cell(estimate: Estimate | None, kind: str) -> Cell:
    value = None if estimate is None else estimate.value
    return Cell(_FORMATS[kind](value), format_interval(estimate, kind))


def _expert_cells(part: ExpertSummary | None, headings: tuple[str, ...]) -> tuple[Cell, ...]:
    if part is None:
        return tuple(Cell(format_count(None)) for _ in headings)
    cells = {
        "requests": Cell(format_count(part.requests)),
        "right": _cell(part.accuracy, "share"),
        "router right": _cell(part.router_accuracy, "share"),
        "TTFT p50": _cell(part.ttft_s.p50, "seconds"),
        "switches": Cell(format_count(part.switches)),
    }
    return tuple(cells[heading] for heading in headings)


def _outcomes(arm: ArmSummary) -> str:
    counts = arm.requests
    return ", ".join(
        format_count(count) for count in (counts.ok, counts.failed, counts.timeout, counts.unsent, counts.cancelled)
    )
