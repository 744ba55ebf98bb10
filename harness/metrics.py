"""One arm's records and samples, as figures. Pure; formulas and units are in docs/metrics.md."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from harness.records import NS_PER_S, RequestRecord, SwitchRecord
from harness.results import ArmManifest
from harness.statistics import quantiles, rate, share
from harness.summary import (
    ArmSummary,
    ClientSummary,
    Estimate,
    ExpertSummary,
    RequestCounts,
    Resources,
)
from harness.telemetry.sample import Sample
from harness.telemetry.throttling import power_limited_share, throttled_by, throttled_share

__all__ = ["accuracy", "distinct_switches", "energy_j", "gpu_used_bytes", "summarise_arm"]

CLASSES = ("resident", "host", "disk")


def summarise_arm(
    records: Sequence[RequestRecord], samples: Sequence[Sample], times: Sequence[ArmManifest]
) -> ArmSummary:
    """The figures of one arm, all its times together.

    Args:
        records, samples: of all times, one time after the other, records in schedule order within each.
        times: of the arm, at least one.
    """
    window = _Window(records, repeats=len(times))
    good = [r for r in records if r.meets_slo]
    judged = any(r.answer is not None for r in records)
    switches = distinct_switches(records)
    resources = _resources(samples, before_bytes=times[0].gpu_before_bytes)
    stats = times[-1].stats_after or {}
    weights = _weight_bytes(stats)
    return ArmSummary(
        requests=_counts(records),
        accuracy=accuracy(records),
        router_accuracy=_router_accuracy(records),
        correct_goodput_per_s=_scheduled_rate((r for r in good if r.correct), window) if judged else None,
        goodput_per_s=_scheduled_rate(good, window),
        slo_attainment=share(len(good), sum(r.outcome != "cancelled" for r in records)),
        output_tokens_per_s=_token_rate(records, window),
        requests_per_s=window.rate(_answered(records)),
        output_tokens=sum(r.client_tokens for r in records),
        window_s=window.total_s,
        duration_s=_duration_s(records),
        ttft_s=quantiles(_defined(r.ttft_s for r in records)),
        tpot_s=quantiles(_defined(r.tpot_s for r in records)),
        e2e_s=quantiles(_defined(r.e2e_s for r in records if r.outcome == "ok")),
        send_lag_s=quantiles(_defined(r.send_lag_s for r in records)),
        route_s=quantiles(_defined(r.route_s for r in records if r.router_confidence is not None)),
        ttft_s_by_class={
            name: quantiles(_defined(r.ttft_s for r in records if r.residency == name)) for name in CLASSES
        },
        switches=len(switches),
        engine_switches=_since_start(times, "switches"),
        evictions=_since_start(times, "evictions"),
        hit_rate=_hit_rate(records),
        switch_s={name: quantiles([s.duration_s for s in switches if s.source == name]) for name in CLASSES[1:]},
        moved_bytes=sum(s.moved_bytes for s in switches),
        engine_moved_bytes=_since_start(times, "moved_bytes"),
        weight_bytes=weights,
        budget_bytes=_integer(stats, "budget_bytes"),
        kv_bytes=_integer(stats, "kv_bytes"),
        process_bytes=resources.process_bytes,
        resources=resources,
        by_expert=_by_expert(records, switches),
        client=_client(samples),
    )


def accuracy(records: Iterable[RequestRecord]) -> Estimate | None:
    """Share of right answers among the requests that carry an expected answer; a failure is a wrong answer."""
    verdicts = [r.correct for r in records if r.correct is not None]
    return share(sum(verdicts), len(verdicts))


def distinct_switches(records: Iterable[RequestRecord]) -> list[SwitchRecord]:
    """The switches that requests waited for, each once, in the order in which they were decided."""
    found = {(r.repeat, r.switch.decided_ns, r.switch.expert): r.switch for r in records if r.switch is not None}
    return [found[key] for key in sorted(found)]


def _router_accuracy(records: Iterable[RequestRecord]) -> Estimate | None:
    """Share of requests that went to the expert the trace wants; `None` if no router chose."""
    wanting = [r for r in records if r.expert_wanted is not None and r.outcome != "cancelled"]
    if not any(r.router_confidence is not None for r in wanting):
        return None
    return share(sum(r.expert_chosen == r.expert_wanted for r in wanting), len(wanting))


def _counts(records: Sequence[RequestRecord]) -> RequestCounts:
    def count(outcome: str) -> int:
        return sum(r.outcome == outcome for r in records)

    return RequestCounts(
        scheduled=len(records),
        ok=count("ok"),
        failed=count("failed"),
        timeout=count("timeout"),
        unsent=count("unsent"),
        cancelled=count("cancelled"),
    )


class _Window:
    """The windows of all times of an arm, laid one after the other; what fell outside its own window counts in none."""

    def __init__(self, records: Iterable[RequestRecord], *, repeats: int) -> None:
        self._length_s = max((r.scheduled_ns for r in records), default=0) / NS_PER_S
        self.total_s = self._length_s * repeats or None

    def rate(self, events: Iterable[tuple[int, int, int]]) -> Estimate | None:
        """Per second, events as `(repeat, t_ns, weight)`."""
        inside = [(n, t_ns / NS_PER_S, w) for n, t_ns, w in events if 0 <= t_ns / NS_PER_S <= self._length_s]
        moments = [n * self._length_s + t_s for n, t_s, _ in inside]
        return rate(moments, self.total_s, [float(w) for _, _, w in inside])


def _answered(records: Iterable[RequestRecord]) -> list[tuple[int, int, int]]:
    return [(r.repeat, r.finished_ns, 1) for r in records if r.outcome == "ok" and r.finished_ns is not None]


def _scheduled_rate(records: Iterable[RequestRecord], window: _Window) -> Estimate | None:
    return window.rate((r.repeat, r.scheduled_ns, 1) for r in records)


def _token_rate(records: Iterable[RequestRecord], window: _Window) -> Estimate | None:
    return window.rate((r.repeat, t_ns, n) for r in records for t_ns, n in r.chunks)


def _duration_s(records: Iterable[RequestRecord]) -> float | None:
    ends: dict[int, int] = {}
    for record in records:
        if record.finished_ns is not None:
            ends[record.repeat] = max(ends.get(record.repeat, 0), record.finished_ns)
    return sum(ends.values()) / NS_PER_S if ends else None


def _hit_rate(records: Iterable[RequestRecord]) -> Estimate | None:
    admitted = [r for r in records if r.residency is not None]
    return share(sum(r.residency == "resident" for r in admitted), len(admitted))


def _by_expert(records: Sequence[RequestRecord], switches: Sequence[SwitchRecord]) -> dict[str, ExpertSummary]:
    groups: dict[str, list[RequestRecord]] = {}
    for record in records:
        name = record.expert_wanted or record.expert_chosen
        if name is not None:
            groups.setdefault(name, []).append(record)
    return {name: _expert(groups[name], name, switches) for name in sorted(groups)}


def _expert(records: Sequence[RequestRecord], name: str, switches: Sequence[SwitchRecord]) -> ExpertSummary:
    return ExpertSummary(
        requests=len(records),
        ok=sum(r.outcome == "ok" for r in records),
        accuracy=accuracy(records),
        router_accuracy=_router_accuracy(records),
        ttft_s=quantiles(_defined(r.ttft_s for r in records)),
        e2e_s=quantiles(_defined(r.e2e_s for r in records if r.outcome == "ok")),
        output_tokens=sum(r.client_tokens for r in records),
        switches=sum(s.expert == name for s in switches),
    )


def _weight_bytes(stats: Mapping[str, object]) -> dict[str, int] | None:
    parts = stats.get("weight_bytes")
    if not isinstance(parts, Mapping):
        return None
    named = {str(name): int(value) for name, value in parts.items()}
    return {**named, "total": sum(named.values())}


def _since_start(times: Iterable[ArmManifest], name: str) -> int | None:
    total = 0
    for manifest in times:
        after = _integer(manifest.stats_after or {}, name)
        before = _integer(manifest.stats_before or {}, name)
        if after is None or before is None:
            return None
        total += after - before
    return total


def _integer(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _client(samples: Sequence[Sample]) -> ClientSummary:
    shares = _defined(s.client_cpu_share for s in samples)
    lags = [s.loop_lag_ns / NS_PER_S for s in samples if s.loop_lag_ns is not None]
    return ClientSummary(cpu_share=_mean(shares), loop_lag_s=quantiles(lags))


def gpu_used_bytes(samples: Iterable[Sample], *, before_bytes: int | None) -> int | None:
    """Highest memory of the engine: of its process, or of the device less what was there before, as NVML says."""
    process, device = [], []
    for sample in samples:
        if sample.gpu_process_bytes is not None:
            process.append(sample.gpu_process_bytes)
        if sample.gpu_memory_bytes is not None:
            device.append(sample.gpu_memory_bytes)
    if process:
        return max(process)
    return max(device) - before_bytes if device and before_bytes is not None else None


def _resources(samples: Sequence[Sample], *, before_bytes: int | None) -> Resources:
    return Resources(
        process_bytes=_largest(s.process_rss_bytes for s in samples),
        engine_cpu_share=_mean(_defined(s.engine_cpu_share for s in samples)),
        gpu_memory_bytes=_largest(s.gpu_memory_bytes for s in samples),
        gpu_process_bytes=_largest(s.gpu_process_bytes for s in samples),
        gpu_utilisation=_mean(_defined(s.gpu_utilisation for s in samples)),
        gpu_energy_j=energy_j(samples),
        gpu_used_bytes=gpu_used_bytes(samples, before_bytes=before_bytes),
        gpu_power_w=_mean(_defined(s.gpu_power_w for s in samples)),
        gpu_sm_clock_mhz=min((s.gpu_sm_clock_mhz for s in samples if s.gpu_sm_clock_mhz is not None), default=None),
        gpu_memory_clock_mhz=min(
            (s.gpu_memory_clock_mhz for s in samples if s.gpu_memory_clock_mhz is not None), default=None
        ),
        gpu_throttled_share=throttled_share(samples),
        gpu_throttled_by=throttled_by(samples),
        gpu_power_limited_share=power_limited_share(samples),
    )


def energy_j(samples: Sequence[Sample]) -> float | None:
    """By the driver's counter where it has one, else by the power sampled; summed over the times of the arm."""
    total = None
    for repeat in sorted({s.repeat for s in samples}):
        part = _energy_of([s for s in samples if s.repeat == repeat])
        total = part if total is None else total + (part or 0.0)
    return total


def _energy_of(samples: Sequence[Sample]) -> float | None:
    counted = _defined(s.gpu_energy_j for s in samples)
    if len(counted) > 1:
        return counted[-1] - counted[0]
    powers = [(s.t_ns / NS_PER_S, s.gpu_power_w) for s in samples if s.gpu_power_w is not None]
    if len(powers) < 2:
        return None
    return sum((b - a) * (p + q) / 2 for (a, p), (b, q) in pairwise(powers))


def _defined(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
