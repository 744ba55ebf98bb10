"""A run directory's raw records to its summary. Nothing else goes in, so that it can always be rebuilt."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from harness.comparison import compare_arms
from harness.errors import RunFormatError
from harness.headline import build_headline
from harness.metrics import summarise_arm
from harness.records import RequestRecord, read_records
from harness.results import ArmManifest, Manifest, RunDirectory, write_atomic
from harness.statistics import METHODS
from harness.summary import Summary, dump_summary
from harness.telemetry.sample import Sample, read_samples
from harness.validity import arm_notes, arm_reasons

__all__ = ["rebuild_summary", "summarise"]

Line = TypeVar("Line", RequestRecord, Sample)


def summarise(run_dir: Path) -> Summary:
    """What the run comes to, from `manifest.json`, `requests.jsonl` and `telemetry.jsonl` alone.

    Raises:
        RunFormatError: a file is missing or damaged.
    """
    run = RunDirectory(run_dir)
    manifest = run.read_manifest()
    if manifest.status == "complete" and not run.telemetry.exists():
        # without samples of the client, nothing could say that the run is invalid
        raise RunFormatError(f"{run.telemetry}: cannot read the samples: the file is missing")
    entries = _entries(manifest)
    records = _by_arm(entries, read_records(run.requests) if entries else [])
    samples = _by_arm(entries, read_samples(run.telemetry))
    arms = {name: summarise_arm(records[name], samples[name], times) for name, times in entries.items()}
    missing = {arm.name: arm.stopped or arm.outcome for arm in manifest.arms if arm.outcome != "ok"}
    reasons = [] if manifest.status == "complete" else ["the run is partial: it was interrupted or it crashed"]
    notes = [f"{name}: did not start, which is its result: {why}" for name, why in missing.items()]
    for name, times in entries.items():
        for arm in times:
            own = [r for r in records[name] if r.repeat == arm.repeat]
            sampled = [s for s in samples[name] if s.repeat == arm.repeat]
            figures = arms[name] if len(times) == 1 else summarise_arm(own, sampled, [arm])
            reasons += arm_reasons(figures, own, sampled, arm, scheduled=int(manifest.trace["requests"] or 0))
            notes += arm_notes(figures, sampled, arm)
    names = list(arms)
    comparison = tuple(compare_arms(names[0], other, records, arms) for other in names[1:])
    return Summary(
        run_id=manifest.run_id,
        valid=not reasons,
        reasons=tuple(reasons),
        notes=tuple(notes),
        partial=manifest.status != "complete",
        family=manifest.family,
        trace=manifest.trace,
        headline=build_headline(arms, manifest.family, comparison[0] if comparison else None),
        arms=arms,
        comparison=comparison,
        methods=METHODS,
        did_not_start=missing,
    )


def rebuild_summary(run_dir: Path) -> Summary:
    """`summarise`, and write `summary.json`. The same records give the same bytes."""
    summary = summarise(run_dir)
    write_atomic(RunDirectory(run_dir).summary, dump_summary(summary))
    return summary


def _entries(manifest: Manifest) -> dict[str, list[ArmManifest]]:
    """Each arm that started, in the order of its first time, and its times."""
    found: dict[str, list[ArmManifest]] = {}
    for arm in manifest.arms:
        if arm.outcome == "ok":
            found.setdefault(arm.name, []).append(arm)
    return found


def _by_arm(arms: Iterable[str], values: Iterable[Line]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {name: [] for name in arms}
    for value in values:
        groups.setdefault(value.arm, []).append(value)
    return groups
