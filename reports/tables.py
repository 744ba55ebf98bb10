"""The run as tables: raw requests, switches and samples, and what they come to by arm, expert and route.

Every table is a `pandas.DataFrame` that can be written as CSV; times are in seconds from the arm's zero.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from harness.metrics import distinct_switches
from harness.records import NS_PER_S, RequestRecord, SwitchRecord
from harness.summary import Estimate, Quantiles, RequestCounts, Summary
from harness.telemetry.sample import Sample

__all__ = [
    "NONE_CHOSEN",
    "arms_table",
    "confusion_table",
    "experts_table",
    "requests_table",
    "samples_table",
    "switches_by_arm",
    "switches_table",
    "to_csv",
    "wrong_answers",
]

NONE_CHOSEN = "(none)"
"""Stands for the expert of a request for which none was chosen."""

_STAMPS = ("scheduled", "sent", "route_started", "routed", "admitted", "first_token", "last_token", "finished")
_PLAIN = (
    "arm",
    "repeat",
    "index",
    "request_id",
    "task",
    "expert_wanted",
    "expert_chosen",
    "router_confidence",
    "residency",
    "outcome",
    "finish_reason",
    "error",
    "input_tokens",
    "output_tokens",
    "send_lag_s",
    "route_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "meets_slo",
    "correct",
    "answer",
    "output",
    "message",
)
_SWITCH_COLUMNS = ("arm", "expert", "source", "decided_s", "ready_s", "switch_s", "moved_bytes", "evicted", "requests")
_LATENCIES = ("ttft_s", "tpot_s", "e2e_s", "send_lag_s", "route_s")


def requests_table(records: Sequence[RequestRecord]) -> pd.DataFrame:
    """One row a request: stamps, derived times, verdict and what was answered."""
    columns = [*_PLAIN, *(f"{stamp}_s" for stamp in _STAMPS), "slo_ttft_s", "slo_tpot_s", "slo_e2e_s"]
    return pd.DataFrame([_request_row(r) for r in records], columns=columns)


def _request_row(record: RequestRecord) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(record, name) for name in _PLAIN}
    for stamp in _STAMPS:
        row[f"{stamp}_s"] = _seconds(getattr(record, f"{stamp}_ns"))
    for limit in ("ttft", "tpot", "e2e"):
        value = getattr(record.slo, f"{limit}_ms")
        row[f"slo_{limit}_s"] = None if value is None else value / 1e3
    return row


def switches_by_arm(records: Sequence[RequestRecord]) -> dict[str, list[SwitchRecord]]:
    """The distinct switches of each arm, in order of decision; an arm without switches has an empty list."""
    arms = dict.fromkeys(record.arm for record in records)
    return {arm: distinct_switches(r for r in records if r.arm == arm) for arm in arms}


def switches_table(records: Sequence[RequestRecord]) -> pd.DataFrame:
    """One row a distinct switch, in order of decision; `requests` counts those that waited for it."""
    waited = Counter((r.arm, r.switch.expert, r.switch.decided_ns) for r in records if r.switch is not None)
    rows = [
        {
            "arm": arm,
            "expert": switch.expert,
            "source": switch.source,
            "decided_s": _seconds(switch.decided_ns),
            "ready_s": _seconds(switch.ready_ns),
            "switch_s": switch.duration_s,
            "moved_bytes": switch.moved_bytes,
            "evicted": " ".join(switch.evicted),
            "requests": waited[arm, switch.expert, switch.decided_ns],
        }
        for arm, switches in switches_by_arm(records).items()
        for switch in switches
    ]
    return pd.DataFrame(rows, columns=list(_SWITCH_COLUMNS))


def samples_table(samples: Sequence[Sample]) -> pd.DataFrame:
    """One row a telemetry sample: `t_s` from the arm's zero, the arm, and all that was sampled, by its own name."""
    names = [field.name for field in fields(Sample) if field.name != "t_ns"]
    rows = [{"t_s": sample.t_ns / NS_PER_S} | {name: getattr(sample, name) for name in names} for sample in samples]
    return pd.DataFrame(rows, columns=["t_s", *names])


def confusion_table(records: Sequence[RequestRecord], arm: str) -> pd.DataFrame:
    """Counts of requests by expert wanted (rows) and chosen (columns), the same names in both where possible.

    Requests for which no expert was chosen are in the column `NONE_CHOSEN`; a trace without experts gives no row.
    """
    pairs = Counter(
        (r.expert_wanted, r.expert_chosen or NONE_CHOSEN) for r in records if r.arm == arm and r.expert_wanted
    )
    wanted = sorted({pair[0] for pair in pairs})
    # names that nobody wanted come after the diagonal, nothing chosen last
    others = {pair[1] for pair in pairs} - set(wanted)
    chosen = [*wanted, *sorted(others, key=lambda name: (name == NONE_CHOSEN, name))]
    counts = [[pairs[row, column] for column in chosen] for row in wanted]
    return pd.DataFrame(counts, index=pd.Index(wanted, name="wanted"), columns=chosen)


def experts_table(summary: Summary) -> pd.DataFrame:
    """One row an arm and expert: requests, accuracy, router accuracy, latency, switches."""
    rows = []
    for arm, figures in summary.arms.items():
        for expert, part in figures.by_expert.items():
            row = {"arm": arm, "expert": expert, "requests": part.requests, "ok": part.ok}
            row |= _spread("accuracy", part.accuracy) | _spread("router_accuracy", part.router_accuracy)
            row |= _percentiles("ttft_s", part.ttft_s) | _percentiles("e2e_s", part.e2e_s)
            rows.append(row | {"output_tokens": part.output_tokens, "switches": part.switches})
    return pd.DataFrame(rows)


def arms_table(summary: Summary) -> pd.DataFrame:
    """One row an arm and metric: `value`, `low`, `high`; undefined ones are empty."""
    rows = []
    for arm, figures in summary.arms.items():
        row: dict[str, Any] = {
            f"requests_{field.name}": getattr(figures.requests, field.name) for field in fields(RequestCounts)
        }
        for name in ("accuracy", "router_accuracy", "correct_goodput_per_s", "goodput_per_s", "slo_attainment"):
            row |= _spread(name, getattr(figures, name))
        for name in _LATENCIES:
            row |= _percentiles(name, getattr(figures, name))
        for source, quantiles in figures.switch_s.items():
            row |= _percentiles(f"switch_{source}_s", quantiles)
        row |= {name: getattr(figures, name) for name in ("switches", "moved_bytes", "kv_bytes", "process_bytes")}
        row |= {f"weight_bytes_{part}": value for part, value in (figures.weight_bytes or {}).items()}
        rows += [{"arm": arm, "metric": metric, "value": value} for metric, value in row.items()]
    return pd.DataFrame(rows, columns=["arm", "metric", "value"])


def wrong_answers(records: Sequence[RequestRecord], arm: str, limit: int) -> list[RequestRecord]:
    """The first `limit` requests of `arm` that have an expected answer and did not give it, in schedule order."""
    wrong = (r for r in records if r.arm == arm and r.correct is False)
    return [record for record, _ in zip(wrong, range(limit), strict=False)]


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV: floats with nine significant digits, undefined cells empty."""
    return str(table.to_csv(index=table.index.name is not None, float_format="%.9g", lineterminator="\n"))


def _spread(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _percentiles(name: str, quantiles: Quantiles) -> dict[str, float | None]:
    row: dict[str, float | None] = {f"{name}_n": quantiles.n}
    for percentile in ("p50", "p90", "p99"):
        row |= _spread(f"{name}_{percentile}", getattr(quantiles, percentile))
    return row


def _seconds(stamp_ns: int | None) -> float | None:
    return None if stamp_ns is None else stamp_ns / NS_PER_S
