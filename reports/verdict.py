"""Whether a run may be quoted: the first line of a report."""

from dataclasses import dataclass
from typing import Literal

from harness.summary import Summary
from harness.units import format_seconds, format_share

__all__ = ["Verdict", "run_verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The first line of a report: one word, one sentence, every reason, and notes that do not invalidate."""

    status: Literal["valid", "invalid"]
    title: str
    text: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def run_verdict(summary: Summary) -> Verdict:
    """Valid only if nothing speaks against it; a run that was cut short says so in its first word."""
    partial = "The run was interrupted: its numbers cover what had been recorded by then."
    if summary.valid and not summary.partial:
        title, text = "VALID", f"Every check of this run passed{_client(summary)}."
    elif summary.valid:
        title, text = "PARTIAL", partial
    elif summary.partial:
        title, text = "PARTIAL, INVALID", f"{partial} Do not quote them."
    else:
        title, text = "INVALID", "This run fails its own checks: do not quote its numbers."
    return Verdict(
        status="valid" if summary.valid and not summary.partial else "invalid",
        title=title,
        text=text,
        reasons=summary.reasons,
        notes=summary.notes,
    )


def _client(summary: Summary) -> str:
    """The instrument's own worst figures, which are what makes the others believable."""
    said = []
    for name in ("p99", "p90", "p50"):
        lags = [getattr(arm.send_lag_s, name) for arm in summary.arms.values()]
        if lags and None not in lags:
            said = [f"send lag {name} {format_seconds(max(lag.value for lag in lags))}"]
            break
    share = max((arm.client.cpu_share for arm in summary.arms.values() if arm.client.cpu_share), default=None)
    said += [] if share is None else [f"client CPU {format_share(share)} of a core"]
    return f": {', '.join(said)}" if said else ""
