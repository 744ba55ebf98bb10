"""A cell's raw records as one flat row of figures. Pure; formulas and units are in docs/metrics.md."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.metrics import distinct_switches, energy_j, gpu_used_bytes
from harness.policies import BELADY, ReplayConfig, replay
from harness.records import NS_PER_S, RequestRecord
from harness.statistics import quantiles, rate, share
from harness.summary import Estimate, Quantiles
from harness.sweep.results import CellRecord, SweepDirectory
from harness.telemetry.sample import Sample
from harness.telemetry.throttling import THROTTLED_SHARE, power_limited_share, throttled_by, throttled_share
from harness.validity import client_reasons

__all__ = ["SweepRow", "cell_row", "sweep_rows", "window_requests"]

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One cell. `None` is undefined, never zero; `_low` and `_high` are the ends of a 95 % interval.

    Attributes:
        output_tokens, prompt_tokens: of each request.
        commit: of the code that measured the cell, where it is known.
        n: requests whose first token came in the window; the distributions are theirs.
        ttft_*: `None` where the cell had not settled when its window opened; p99 from 300 requests on.
        engine_experts: names that the engine knew; cells that share one have its memory.
        hit_rate: share of those requests whose expert was resident; belady_hit_rate: of the best policy that serves
            the same sequence in order, with as many slots.
        switch_p50_s: of those that requests waited for, from the decision to when a row could be computed; on an idle
            GPU its layers follow the copy, and that is at once.
        copy_mean_s: of all copies to the device in the cell, on the device; `None` where nothing was copied or timed.
        nvml_bytes: highest memory of the engine on the device.
        shared_images: experts without a place of their own in host memory.
        valid: whether the figures may be used; `reasons` says why not.
    """

    family: str
    arm: str
    codec: str | None
    experts: int
    popularity: str
    policy: str
    in_flight: int | None
    rate_per_s: float | None
    memory_budget_bytes: int
    prompt_tokens: int
    output_tokens: int
    commit: str | None
    outcome: str
    message: str | None
    valid: bool
    reasons: tuple[str, ...]
    settled: bool
    engine_experts: int | None = None
    window_s: float | None = None
    n: int = 0
    failed: int = 0
    output_tokens_per_s: float | None = None
    output_tokens_per_s_low: float | None = None
    output_tokens_per_s_high: float | None = None
    requests_per_s: float | None = None
    requests_per_s_low: float | None = None
    requests_per_s_high: float | None = None
    ttft_p50_s: float | None = None
    ttft_p50_s_low: float | None = None
    ttft_p50_s_high: float | None = None
    ttft_p99_s: float | None = None
    ttft_p99_s_low: float | None = None
    ttft_p99_s_high: float | None = None
    ttft_resident_p50_s: float | None = None
    ttft_host_p50_s: float | None = None
    ttft_disk_p50_s: float | None = None
    tpot_p50_s: float | None = None
    switch_p50_s: float | None = None
    copy_mean_s: float | None = None
    switches: int = 0
    hit_rate: float | None = None
    hit_rate_low: float | None = None
    hit_rate_high: float | None = None
    belady_hit_rate: float | None = None
    slots: int | None = None
    weight_bytes: int | None = None
    planned_bytes: int | None = None
    nvml_bytes: int | None = None
    energy_j_per_token: float | None = None
    throttled_share: float | None = None
    throttled_by: tuple[str, ...] = ()
    power_limited_share: float | None = None
    sm_clock_mhz: int | None = None
    shared_images: int = 0


def sweep_rows(directory: SweepDirectory) -> Iterator[SweepRow]:
    """A row for each cell of the last call's configuration, by arm, budget, policy, popularity, load and experts.

    Cells of another family, codec, workload or engine, which an earlier call left there, are no rows of this table.

    Raises:
        RunFormatError: a file is damaged.
    """
    configuration = directory.read_manifest().configuration
    cells = (cell for cell in directory.read_cells() if cell.configuration == configuration)
    for cell in sorted(cells, key=_order):
        yield cell_row(cell, directory.cells.read_requests(cell.key), directory.cells.read_samples(cell.key))


def _order(record: CellRecord) -> tuple[object, ...]:
    cell = record.cell
    load = (cell.in_flight or 0, cell.rate_per_s or 0.0)
    return cell.arm, cell.budget_bytes, cell.policy, cell.popularity, load, cell.experts


def cell_row(record: CellRecord, requests: Sequence[RequestRecord], samples: Sequence[Sample]) -> SweepRow:
    """The figures of one cell."""
    cell = record.cell
    row = SweepRow(
        family=record.family,
        arm=cell.arm,
        codec=record.codec if record.config.get("weights") == "delta" else None,
        experts=cell.experts,
        popularity=cell.popularity,
        policy=cell.policy,
        in_flight=cell.in_flight,
        rate_per_s=cell.rate_per_s,
        memory_budget_bytes=cell.budget_bytes,
        prompt_tokens=record.prompt_tokens,
        output_tokens=record.output_tokens,
        commit=record.commit,
        outcome=record.outcome,
        message=record.message,
        valid=record.outcome == "ok",
        reasons=record.reasons,
        settled=record.settled,
        engine_experts=record.engine_experts,
        shared_images=record.shared_images,
    )
    if record.outcome != "ok" or record.window_ns is None:
        return row
    row = _with_memory(_with_speed(row, record, requests), record, samples)
    reasons = (*record.reasons, *_reasons(row, record), *client_reasons(_sent(record, requests), samples))
    return replace(row, reasons=reasons, valid=not reasons)


def window_requests(record: CellRecord, requests: Iterable[RequestRecord]) -> list[RequestRecord]:
    """The requests whose first token came in the window, as they were sent.

    In a steady state each request is as likely as any other to be among them, however long it waited: those *sent* in
    the window would leave out whoever still waits at its end.
    """
    assert record.window_ns is not None
    opened_ns, closed_ns = record.window_ns
    inside = (r for r in requests if r.first_token_ns is not None and opened_ns <= r.first_token_ns < closed_ns)
    return sorted(inside, key=lambda r: r.index)


def _sent(record: CellRecord, requests: Iterable[RequestRecord]) -> list[RequestRecord]:
    """The requests that were sent in the window, whatever became of them."""
    assert record.window_ns is not None
    opened_ns, closed_ns = record.window_ns
    return [r for r in requests if r.sent_ns is not None and opened_ns <= r.sent_ns < closed_ns]


def _with_speed(row: SweepRow, record: CellRecord, requests: Sequence[RequestRecord]) -> SweepRow:
    assert record.window_ns is not None
    opened_ns, closed_ns = record.window_ns
    window_s = (closed_ns - opened_ns) / NS_PER_S
    seen = window_requests(record, requests)
    chunks = [((t_ns - opened_ns) / NS_PER_S, float(n)) for r in requests for t_ns, n in r.chunks]
    ends = [r.finished_ns for r in requests if r.outcome == "ok" and r.finished_ns is not None]
    tokens = rate([t for t, _ in chunks], window_s, [n for _, n in chunks])
    answered = rate([(end - opened_ns) / NS_PER_S for end in ends], window_s)
    switches = distinct_switches(seen)
    hits = share(sum(r.residency == "resident" for r in seen), len(seen))
    ttft = quantiles([r.ttft_s for r in seen if r.ttft_s is not None]) if record.settled else None
    return replace(
        row,
        window_s=window_s,
        n=len(seen),
        failed=sum(r.outcome == "failed" for r in requests),
        switches=len(switches),
        switch_p50_s=_median([s.duration_s for s in switches]),
        tpot_p50_s=_median([r.tpot_s for r in seen if r.tpot_s is not None]),
        belady_hit_rate=_belady(record, seen),
        **_bounded("output_tokens_per_s", tokens),
        **_bounded("requests_per_s", answered),
        **_bounded("hit_rate", hits),
        **_bounded("ttft_p50_s", ttft.p50 if ttft else None),
        **_bounded("ttft_p99_s", ttft.p99 if ttft else None),
        **_by_class(seen, settled=record.settled),
    )


def _by_class(seen: Sequence[RequestRecord], *, settled: bool) -> dict[str, Any]:
    if not settled:
        return {}
    return {
        f"ttft_{place}_p50_s": _median([r.ttft_s for r in seen if r.residency == place and r.ttft_s is not None])
        for place in ("resident", "host", "disk")
    }


def _with_memory(row: SweepRow, record: CellRecord, samples: Sequence[Sample]) -> SweepRow:
    after = record.stats_after or {}
    parts, plan = after.get("weight_bytes"), after.get("memory_plan")
    energy = energy_j(samples)
    tokens = row.output_tokens_per_s
    measured_s = (samples[-1].t_ns - samples[0].t_ns) / NS_PER_S if len(samples) > 1 else None
    produced = tokens * measured_s if tokens and measured_s else None
    return replace(
        row,
        slots=_integer(after, "slots"),
        weight_bytes=_total(parts),
        planned_bytes=_planned(plan),
        nvml_bytes=gpu_used_bytes(samples, before_bytes=record.gpu_before_bytes),
        copy_mean_s=_copy_mean_s(record),
        energy_j_per_token=energy / produced if energy is not None and produced else None,
        throttled_share=throttled_share(samples),
        throttled_by=throttled_by(samples),
        power_limited_share=power_limited_share(samples),
        sm_clock_mhz=min((s.gpu_sm_clock_mhz for s in samples if s.gpu_sm_clock_mhz is not None), default=None),
    )


def _copy_mean_s(record: CellRecord) -> float | None:
    before, after = ((stats or {}).get("tiers") for stats in (record.stats_before, record.stats_after))
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return None
    copies, copied_us = ((_integer(after, key) or 0) - (_integer(before, key) or 0) for key in ("copies", "copy_us"))
    return copied_us / copies / 1e6 if copies and copied_us else None


def _belady(record: CellRecord, seen: Sequence[RequestRecord]) -> float | None:
    """Hit rate of the same requests, had the best victims been chosen from the first touch on."""
    slots = _integer(record.stats_after or {}, "slots")
    if not slots or not seen or not record.sequence:
        return None
    before = len(record.touched)
    replayed = replay((*record.touched, *record.sequence), BELADY, ReplayConfig(slots=slots))
    return sum(replayed.was_hit[before + r.index] for r in seen) / len(seen)


def _reasons(row: SweepRow, record: CellRecord) -> Iterator[str]:
    if (record.stats_after or {}).get("is_reference"):
        yield "plain PyTorch served instead of the kernels: no benchmark"
    if row.n == 0:
        yield "no request got its first token in the window: measure for longer"
    if row.failed:
        yield f"{row.failed} requests failed"
    if row.nvml_bytes is not None and row.nvml_bytes > row.memory_budget_bytes:
        yield (
            f"the budget was {row.memory_budget_bytes / GIB:.2f} GiB, and the engine took "
            f"{row.nvml_bytes / GIB:.2f} GiB by NVML"
        )
    if row.throttled_share is not None and row.throttled_share > THROTTLED_SHARE:
        yield f"the GPU was held back in {row.throttled_share:.0%} of the samples by {', '.join(row.throttled_by)}"


def _bounded(name: str, estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _median(values: Sequence[float]) -> float | None:
    summary: Quantiles = quantiles(values)
    return summary.p50.value if summary.p50 else None


def _total(parts: object) -> int | None:
    if not isinstance(parts, Mapping) or not parts:
        return None
    return sum(int(value) for value in parts.values())


def _planned(plan: object) -> int | None:
    """What a GPU's memory plan comes to."""
    if not isinstance(plan, Mapping) or not plan:
        return None
    fixed = sum(int(plan[f"{part}_bytes"]) for part in ("context", "base", "kv", "workspace"))
    return fixed + int(plan["slots"]) * int(plan["slot_bytes"])


def _integer(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None
