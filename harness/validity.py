"""Whether a run's numbers may be believed. A reason makes the run invalid; a note only qualifies it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records import NS_PER_S, RequestRecord
from harness.results import ArmManifest
from harness.statistics import percentile
from harness.summary import ArmSummary
from harness.telemetry.sample import Sample
from harness.telemetry.throttling import THROTTLED_SHARE

__all__ = ["ValidityLimits", "arm_notes", "arm_reasons", "client_reasons"]

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidityLimits:
    """Beyond these the client, and not the system, is what was measured.

    Attributes:
        send_lag_p99_s, loop_lag_p99_s: of the client.
        client_cpu_share: of one core, mean over the arm.
        delivered_load: relative difference between the rate sent and the rate scheduled.
        littles_law: relative difference between the mean number in flight, as sampled, and rate x time in system.
        littles_law_requests: below so many requests the law is not checked.
        littles_law_error: the law is checked only where sampling alone explains less than this.
    """

    send_lag_p99_s: float = 0.05
    loop_lag_p99_s: float = 0.05
    client_cpu_share: float = 0.7
    delivered_load: float = 0.02
    littles_law: float = 0.05
    littles_law_requests: int = 100
    littles_law_error: float = 0.015


def arm_reasons(
    summary: ArmSummary,
    records: Sequence[RequestRecord],
    samples: Sequence[Sample],
    manifest: ArmManifest,
    *,
    scheduled: int,
    limits: ValidityLimits | None = None,
) -> list[str]:
    """Why the arm's numbers may not be believed; empty if they may.

    Args:
        scheduled: requests of the trace.
    """
    limits = limits or ValidityLimits()
    checks = (
        _stopped(manifest),
        _incomplete(summary, scheduled, manifest),
        _unanswered(summary),
        *client_reasons(records, samples, limits=limits),
        _tokens(records),
        _littles_law(records, samples, limits),
        _over_budget(summary, manifest),
        _throttled(summary),
        _reference(manifest),
    )
    return [f"{manifest.name}: {reason}" for reason in checks if reason is not None]


def client_reasons(
    records: Sequence[RequestRecord], samples: Sequence[Sample], *, limits: ValidityLimits | None = None
) -> list[str]:
    """Why the client, and not the system, is what was measured; empty if it kept up.

    Args:
        records: those of a closed loop, too: due when they are sent, they are neither late nor off a schedule.
        samples: of the same time.
    """
    limits = limits or ValidityLimits()
    checks = (
        _send_lag(records, limits),
        _client_cpu(samples, limits),
        _loop_lag(samples, limits),
        _delivered_load(records, limits),
    )
    return [reason for reason in checks if reason is not None]


def arm_notes(summary: ArmSummary, samples: Sequence[Sample], manifest: ArmManifest) -> list[str]:
    """What a reader should know of the arm, short of disbelieving it."""
    notes = []
    failed = summary.requests.failed
    if failed:
        notes.append(f"{failed} of {summary.requests.scheduled} requests failed; they count as wrong and as not good")
    if not any(sample.client_cpu_share is not None for sample in samples):
        notes.append("too short to measure the client's processor share")
    seen = summary.resources.gpu_throttled_by
    if seen and _throttled(summary) is None:
        notes.append(f"the GPU's clocks were held back for a moment by {', '.join(seen)}")
    if limited := summary.resources.gpu_power_limited_share:
        clock = summary.resources.gpu_sm_clock_mhz
        lowest = "" if clock is None else f"; its clock was {clock:,} MHz at the lowest"
        notes.append(f"the GPU drew as much power as it may in {limited:.0%} of the samples{lowest}")
    waited, counted = summary.switches, summary.engine_switches
    if counted is not None and counted != waited:
        notes.append(f"the engine counted {counted} switches, requests waited for {waited} of them")
    return [f"{manifest.name}: {note}" for note in notes]


def _stopped(manifest: ArmManifest) -> str | None:
    return f"the system stopped: {manifest.stopped}" if manifest.stopped else None


def _incomplete(summary: ArmSummary, scheduled: int, manifest: ArmManifest) -> str | None:
    counts = summary.requests
    if counts.scheduled != scheduled:
        return f"{counts.scheduled} of {scheduled} scheduled requests have a record"
    late = counts.timeout + counts.unsent
    if not late:
        return None
    return f"{late} requests were not {'sent' if manifest.stopped else 'finished within the drain limit'}"


def _unanswered(summary: ArmSummary) -> str | None:
    counts = summary.requests
    return "no request was answered" if counts.scheduled and not counts.ok else None


def _send_lag(records: Sequence[RequestRecord], limits: ValidityLimits) -> str | None:
    lags = [lag for r in records if (lag := r.send_lag_s) is not None]
    if not lags:
        return None
    p99 = percentile(lags, 0.99)
    return _over("send lag p99", p99 * 1e3, limits.send_lag_p99_s * 1e3, "ms")


def _loop_lag(samples: Sequence[Sample], limits: ValidityLimits) -> str | None:
    lags = [s.loop_lag_ns / NS_PER_S for s in samples if s.loop_lag_ns is not None]
    if not lags:
        return None
    return _over("send loop lag p99", percentile(lags, 0.99) * 1e3, limits.loop_lag_p99_s * 1e3, "ms")


def _client_cpu(samples: Sequence[Sample], limits: ValidityLimits) -> str | None:
    shares = [s.client_cpu_share for s in samples if s.client_cpu_share is not None]
    if not shares:
        return None
    return _over("client CPU", sum(shares) / len(shares) * 100, limits.client_cpu_share * 100, "% of a core")


def _over(name: str, value: float, limit: float, unit: str) -> str | None:
    if value <= limit:
        return None
    return f"the client was overloaded: {name} {value:.1f} {unit}, limit {limit:g} {unit}"


def _delivered_load(records: Sequence[RequestRecord], limits: ValidityLimits) -> str | None:
    sent = [(r.scheduled_ns, r.sent_ns) for r in records if r.sent_ns is not None]
    if len(sent) < 2:
        return None
    planned_ns = max(s for s, _ in sent) - min(s for s, _ in sent)
    took_ns = max(t for _, t in sent) - min(t for _, t in sent)
    if planned_ns == 0:
        # all at once: a rate is not defined, and the send lag says the rest
        return None
    off = planned_ns / took_ns - 1 if took_ns else math.inf
    if abs(off) <= limits.delivered_load:
        return None
    return f"delivered load was {off:+.1%} off the schedule, limit {limits.delivered_load:.0%}"


def _tokens(records: Sequence[RequestRecord]) -> str | None:
    differing = [
        r for r in records if r.outcome == "ok" and r.output_tokens is not None and r.output_tokens != r.client_tokens
    ]
    if not differing:
        return None
    first = differing[0]
    return (
        f"token counts of {len(differing)} requests differ between client and engine, "
        f"such as {first.request_id}: {first.client_tokens} received, {first.output_tokens} reported"
    )


def _over_budget(summary: ArmSummary, manifest: ArmManifest) -> str | None:
    """What NVML saw against what the arm was allowed: on a GPU the budget is for everything."""
    device, used = manifest.config.get("device"), summary.resources.gpu_used_bytes
    if not isinstance(device, Mapping) or device.get("kind") != "cuda" or used is None:
        return None
    budget = manifest.config.get("memory_budget_bytes")
    if not isinstance(budget, int) or used <= budget:
        return None
    return f"the memory budget was {budget} bytes ({budget / GIB:.2f} GiB), and NVML saw {used} ({used / GIB:.2f} GiB)"


def _throttled(summary: ArmSummary) -> str | None:
    share = summary.resources.gpu_throttled_share
    if share is None or share <= THROTTLED_SHARE:
        return None
    return (
        f"the GPU's clocks were held back in {share:.0%} of the samples by "
        f"{', '.join(summary.resources.gpu_throttled_by)}, limit {THROTTLED_SHARE:.0%}"
    )


def _reference(manifest: ArmManifest) -> str | None:
    if not (manifest.stats_after or {}).get("is_reference"):
        return None
    return "plain PyTorch on the processor served instead of the GPU's kernels: no benchmark"


def _littles_law(records: Sequence[RequestRecord], samples: Sequence[Sample], limits: ValidityLimits) -> str | None:
    """L = lambda W, with L sampled by a thread of its own and lambda W from the records' stamps."""
    spans = [(r.sent_ns, r.finished_ns) for r in records if r.sent_ns is not None and r.finished_ns is not None]
    if len(spans) < limits.littles_law_requests:
        return None
    end_ns = max(finished for _, finished in spans)
    counts = [s.in_flight for s in samples if s.in_flight is not None and 0 <= s.t_ns <= end_ns]
    if len(counts) < 2:
        return None
    mean = sum(counts) / len(counts)
    variance = sum((c - mean) ** 2 for c in counts) / (len(counts) - 1)
    if mean == 0 or math.sqrt(variance / len(counts)) / mean > limits.littles_law_error:
        return None
    expected = sum(finished - sent for sent, finished in spans) / end_ns
    off = mean / expected - 1
    if abs(off) <= limits.littles_law:
        return None
    return (
        f"Little's law is off by {off:+.1%}, limit {limits.littles_law:.0%}: {mean:.2f} in flight on average, "
        f"{expected:.2f} by rate and time in system"
    )
