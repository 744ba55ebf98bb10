"""Where the time of a decode step goes: its kernels, as the device's own tracing saw them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from harness.decode.case import DecodeCase
from harness.decode.rig import Rig
from harness.results import write_atomic

__all__ = ["PROFILED_STEPS", "KernelCall", "kernel_totals", "last_step", "profile_decode", "trace_steps"]

PROFILED_STEPS = 8

SHORT = 60
"""Characters of a kernel's name that tell it from the others; those of libraries run to hundreds."""

Tracer = Callable[[Callable[[], None], int], "list[KernelCall]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCall:
    """One kernel on the device: microseconds since the first one began, and those that it took."""

    name: str
    start_us: float
    duration_us: float


def profile_decode(
    rig: Rig, cases: Sequence[DecodeCase], path: Path, *, trace: Tracer, say: Callable[[str], None]
) -> None:
    """Write the kernels of a step of each case to `path`, as JSON; say how long the longest of them take."""
    found = []
    for case in cases:
        calls = trace(rig.load(case, steps=PROFILED_STEPS), PROFILED_STEPS)
        totals = kernel_totals(calls, steps=PROFILED_STEPS)
        found.append({"case": asdict(case), "kernels": totals, "sequence": [asdict(c) for c in last_step(calls)]})
        say(f"B {case.B} E {case.E}: {sum(float(t['us_per_step']) for t in totals):.0f} us of kernels a step")
        for total in totals[:12]:
            say(f"  {total['us_per_step']:9.1f} us  {total['calls_per_step']:6.1f} x  {total['kernel']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(found, indent=1) + "\n").encode())


def kernel_totals(calls: Sequence[KernelCall], *, steps: int) -> list[dict[str, str | float]]:
    """Calls and microseconds of each kernel, for one of `steps` steps; the longest first."""
    totals: dict[str, list[float]] = {}
    for call in calls:
        totals.setdefault(call.name, []).append(call.duration_us)
    rows: list[dict[str, str | float]] = [
        {"kernel": name, "calls_per_step": len(times) / steps, "us_per_step": sum(times) / steps}
        for name, times in totals.items()
    ]
    return sorted(rows, key=lambda row: -float(row["us_per_step"]))


def last_step(calls: Sequence[KernelCall]) -> list[KernelCall]:
    """The kernels of the last step, in order; its first one counts as time 0."""
    ordered = sorted(calls, key=lambda call: call.start_us)
    step = ordered[-(len(ordered) // PROFILED_STEPS) :] if len(ordered) >= PROFILED_STEPS else ordered
    return [KernelCall(name=c.name, start_us=c.start_us - step[0].start_us, duration_us=c.duration_us) for c in step]


def trace_steps(step: Callable[[], None], count: int) -> list[KernelCall]:
    """The kernels of `count` steps, after one that is not traced. Tracing slows them a little."""
    from torch.profiler import ProfilerActivity, profile

    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as tracing:
        for _ in range(count):
            step()
        torch.cuda.synchronize()
    events = [event for event in tracing.events() or () if event.device_type.name == "CUDA"]
    return [
        KernelCall(name=event.name[:SHORT], start_us=event.time_range.start, duration_us=event.time_range.elapsed_us())
        for event in events
    ]
