"""Switching measurements as flat rows. Pure; formulas are in docs/metrics.md."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from harness.records import NS_PER_S, RequestRecord
from harness.statistics import RESAMPLES, Floats, paired_interval, percentile, quantiles
from harness.summary import Estimate
from harness.switching.interference import PHASES
from harness.switching.results import MeasuredSetting, SettingRecord
from harness.telemetry.sample import Sample
from harness.validity import client_reasons

__all__ = ["InterferenceRow", "SwitchRow", "interference_rows", "resident_rows", "switch_rows"]

LEAST_FOR_P99 = 300

PLACES: Mapping[str, str] = {"host": "host", "plane": "host", "disk": "disk", "disk-cold": "disk"}
"""The class of a miss in each case: past the page cache or not, a disk is a disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRow:
    """First tokens of one arm where the expert was resident, or somewhere else, one request at a time.

    Attributes:
        expert_bytes: that a switch copies to the device.
        n: pairs of which the miss was a miss and the hit a hit; others: pairs left out, because they were not.
        copy_ms: median on the device, of copies that were timed alone.
        copy_floor_ms: bytes over the measured host-to-device bandwidth; copy_ratio: the one over the other.
        ttft_ms: median first token; ttft_penalty_ms: median difference of the pairs, miss less hit.
        interval: 95 % bootstrap over the pairs, of the penalty; of the first token itself where it is resident.
        whole_model_ratio, whole_model_penalty_ratio: a whole model's copy, and the penalty of missing one, over these,
            all measured here.
        valid: whether the figures may be used; `reasons` says why not.
        first_plane_tokens: tokens of the whole setting that were computed before a second bit plane was there.
    """

    arm: str
    codec: str | None
    expert_bytes: int
    case: str
    n: int
    others: int
    copy_ms: float | None
    copy_ms_low: float | None
    copy_ms_high: float | None
    copy_floor_ms: float | None
    copy_ratio: float | None
    ttft_ms: float | None
    ttft_penalty_ms: float | None
    interval: tuple[float | None, float | None] | None
    whole_model_ratio: float | None
    whole_model_penalty_ratio: float | None
    shared_images: int
    first_plane_tokens: int | None
    outcome: str
    valid: bool
    reasons: tuple[str, ...]
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterferenceRow:
    """One figure of resident experts' answers, with and without switches for others beside them, or right before them.

    Attributes:
        case: of the setting.
        figure: `gap_p99`, `tpot_p50` and `ttft_p50` of answers that others switch beside; `resident_ttft_p50` and
            `resident_tpot_p50` of hits that a switch came before, against an engine that has nothing to switch.
        n_without, n_with: values behind each; switches: that happened.
        ratio: with over without; its interval is a bootstrap over requests.
        valid: whether the figures may be used; `reasons` says why not.
    """

    arm: str
    case: str
    figure: str
    without_ms: float | None
    with_ms: float | None
    n_without: int
    n_with: int
    switches: int
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    valid: bool
    reasons: tuple[str, ...]


def switch_rows(settings: Sequence[MeasuredSetting], *, bytes_per_s: float | None) -> list[SwitchRow]:
    """Two rows a setting: where the expert was resident, and where it was not."""
    rows = [row for setting in settings for row in _setting_rows(setting, bytes_per_s)]
    whole = next((row for row in rows if row.arm == "full-swap-host" and row.case != "resident"), None)
    return rows if whole is None else [_against(whole, row) for row in rows]


def _against(whole: SwitchRow, row: SwitchRow) -> SwitchRow:
    """The row with how many times as long a whole model takes; an expert that costs nothing is not divided by."""
    penalty_ms = row.ttft_penalty_ms or 0.0
    return replace(
        row,
        whole_model_ratio=whole.copy_ms / row.copy_ms if whole.copy_ms and row.copy_ms else None,
        whole_model_penalty_ratio=(whole.ttft_penalty_ms or 0.0) / penalty_ms if penalty_ms > 0.0 else None,
    )


def _setting_rows(setting: MeasuredSetting, bytes_per_s: float | None) -> Iterator[SwitchRow]:
    record = setting.record
    pairs, others = _pairs(record, setting.requests)
    reasons = _client_reasons(setting, lambda task: task in ("miss", "hit"))
    miss, hit = [ttft_ms for ttft_ms, _ in pairs], [ttft_ms for _, ttft_ms in pairs]
    copy = _copy(record)
    floor_ms = None if bytes_per_s is None else 1e3 * record.expert_bytes / bytes_per_s
    penalty = paired_interval(miss, hit, _median_difference, independent=True) if pairs else None
    resident = quantiles(hit).p50

    def row(case: str, ttft_ms: float | None, penalty: Estimate | None, interval: Estimate | None) -> SwitchRow:
        moved = case != "resident"
        return SwitchRow(
            arm=record.arm,
            codec=record.codec,
            expert_bytes=record.expert_bytes,
            case=case,
            n=len(pairs),
            others=others,
            copy_ms=copy.value if copy and moved else None,
            copy_ms_low=copy.low if copy and moved else None,
            copy_ms_high=copy.high if copy and moved else None,
            copy_floor_ms=floor_ms if moved else None,
            copy_ratio=copy.value / floor_ms if copy and floor_ms and moved else None,
            ttft_ms=ttft_ms,
            ttft_penalty_ms=penalty.value if penalty else None,
            interval=(interval.low, interval.high) if interval else None,
            whole_model_ratio=None,
            whole_model_penalty_ratio=None,
            shared_images=record.shared_images,
            first_plane_tokens=_integer(record.stats or {}, "first_plane_tokens"),
            outcome=record.outcome,
            valid=record.outcome == "ok" and not reasons,
            reasons=reasons,
            message=record.message,
        )

    yield row("resident", resident.value if resident else None, None, resident)
    yield row(record.case, percentile(miss, 0.5) if miss else None, penalty, penalty)


def _client_reasons(setting: MeasuredSetting, belongs: Callable[[str], bool]) -> tuple[str, ...]:
    """Why the client was the bottleneck while it sent the requests of these tasks."""
    requests = [r for r in setting.requests if belongs(r.task or "")]
    return tuple(client_reasons(requests, _during(requests, setting.samples)))


def _during(requests: Sequence[RequestRecord], samples: Sequence[Sample]) -> list[Sample]:
    sent = [r.sent_ns for r in requests if r.sent_ns is not None]
    ended = [r.finished_ns for r in requests if r.finished_ns is not None]
    if not sent or not ended:
        return []
    return [sample for sample in samples if min(sent) <= sample.t_ns <= max(ended)]


def _integer(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _pairs(record: SettingRecord, requests: Sequence[RequestRecord]) -> tuple[list[tuple[float, float]], int]:
    """First tokens in ms of the pairs in which each was where it should be, and how many pairs were not."""
    found: dict[int, dict[str, RequestRecord]] = {}
    for request in requests:
        if request.task in ("miss", "hit"):
            found.setdefault(request.repeat, {})[request.task] = request
    place = PLACES[record.case]
    pairs = []
    for _, both in sorted(found.items()):
        miss, hit = both.get("miss"), both.get("hit")
        if miss is None or hit is None or (miss.residency, hit.residency) != (place, "resident"):
            continue
        if miss.ttft_s is not None and hit.ttft_s is not None:
            pairs.append((miss.ttft_s * 1e3, hit.ttft_s * 1e3))
    return pairs, len(found) - len(pairs)


def _median_difference(left: Floats, right: Floats) -> Floats:
    return np.asarray(np.median(left - right, axis=-1))


def _copy(record: SettingRecord) -> Estimate | None:
    return quantiles([value for value in record.copies_ms if value is not None]).p50


def resident_rows(setting: MeasuredSetting) -> list[InterferenceRow]:
    """First token and time per token of hits, each right after a switch, against those where nothing ever switched."""
    found = {task: [r for r in setting.requests if r.task == task] for task in ("still", "hit", "miss")}
    kinds = {"without": found["still"], "with": found["hit"]}
    streams = {kind: [r for r in some if r.residency == "resident"] for kind, some in kinds.items()}
    if not all(streams.values()):
        return []
    moved = len(found["still"]) - len(streams["without"])
    reasons = _client_reasons(setting, lambda task: task in found)
    if moved:
        reasons += (f"{moved} of {len(found['still'])} requests that were to need no switch needed one",)
    switches = sum(r.switch is not None for r in found["miss"])
    return [
        replace(
            _interference(setting.record, f"resident_{figure}", streams, switches, *FIGURES[figure]),
            valid=not reasons,
            reasons=reasons,
        )
        for figure in ("ttft_p50", "tpot_p50")
    ]


def interference_rows(setting: MeasuredSetting) -> list[InterferenceRow]:
    """p99 of the gaps between tokens, and the medians of a token's and of the first token's time."""
    requests = setting.requests
    streams = {kind: [r for r in requests if r.task == f"stream {kind}" and r.outcome == "ok"] for kind in set(PHASES)}
    switches = sum(r.task == "other with" and r.switch is not None for r in requests)
    reasons = _interference_reasons(setting)
    return [
        replace(
            _interference(setting.record, figure, streams, switches, values, q),
            valid=not reasons,
            reasons=reasons,
        )
        for figure, (values, q) in FIGURES.items()
        if all(streams.values())
    ]


def _interference_reasons(setting: MeasuredSetting) -> tuple[str, ...]:
    others = [r for r in setting.requests if r.task == "other without"]
    moved = sum(r.switch is not None for r in others)
    # all streams and others overlap in time; what is on time among the streams says nothing of the others' lag
    reasons = _client_reasons(setting, lambda task: task.startswith("other "))
    if moved:
        reasons += (f"{moved} of {len(others)} requests of the phases without switches needed one",)
    return reasons


def _gaps_ms(record: RequestRecord) -> list[float]:
    stamps = [t_ns for t_ns, _ in record.chunks]
    return [(later - earlier) / NS_PER_S * 1e3 for earlier, later in pairwise(stamps)]


FIGURES: Mapping[str, tuple[Callable[[RequestRecord], list[float]], float]] = {
    "gap_p99": (_gaps_ms, 0.99),
    "tpot_p50": (lambda record: [] if record.tpot_s is None else [record.tpot_s * 1e3], 0.5),
    "ttft_p50": (lambda record: [] if record.ttft_s is None else [record.ttft_s * 1e3], 0.5),
}


def _interference(
    record: SettingRecord,
    figure: str,
    streams: Mapping[str, Sequence[RequestRecord]],
    switches: int,
    read: Callable[[RequestRecord], list[float]],
    q: float,
) -> InterferenceRow:
    values = {kind: [read(record) for record in records] for kind, records in streams.items()}
    without, with_ = (_flat(values[kind]) for kind in ("without", "with"))
    enough = min(len(without), len(with_)) >= (LEAST_FOR_P99 if q == 0.99 else 1)
    before, after = (percentile(v, q) if enough else None for v in (without, with_))
    ratio = None if before is None or after is None else after / before
    low, high = _ratio_interval(values["with"], values["without"], q) if enough else (None, None)
    return InterferenceRow(
        arm=record.arm,
        case=record.case,
        figure=figure,
        without_ms=before,
        with_ms=after,
        n_without=len(without),
        n_with=len(with_),
        switches=switches,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        valid=True,
        reasons=(),
    )


def _ratio_interval(above: Sequence[list[float]], below: Sequence[list[float]], q: float) -> tuple[float, float]:
    """Ends of the ratio of two percentiles, whole requests resampled: gaps of one request share its fate."""
    rng = np.random.default_rng(0)
    ratios = [_drawn(above, q, rng) / _drawn(below, q, rng) for _ in range(RESAMPLES // 4)]
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _drawn(requests: Sequence[list[float]], q: float, rng: np.random.Generator) -> float:
    chosen = rng.integers(0, len(requests), size=len(requests))
    return percentile(_flat([requests[i] for i in chosen]), q)


def _flat(values: Sequence[list[float]]) -> list[float]:
    return [value for part in values for value in part]
