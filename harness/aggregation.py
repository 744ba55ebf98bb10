"""A run directory's raw records to its summary. Nothing else goes in, so that it can always be rebuilt."""

from pathlib import Path

from harness.comparison import compare_arms
from harness.errors import RunFormatError
from harness.headline import build_headline
from harness.metrics import summarise_arm
from harness.records import RequestRecord, read_records
from harness.results import Manifest, RunDirectory, write_atomic
from harness.statistics import METHODS
from harness.summary import Summary, dump_summary
from harness.telemetry.sample import Sample, read_samples
from harness.validity import arm_notes, arm_reasons

__all__ = ["rebuild_summary", "summarise"]


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
    records = _by_arm(manifest, read_records(run.requests) if manifest.arms else [])
    samples = _samples_by_arm(manifest, read_samples(run.telemetry))
    arms = {arm.name: summarise_arm(records[arm.name], samples[arm.name], arm) for arm in manifest.arms}
    reasons = [] if manifest.status == "complete" else ["the run is partial: it was interrupted or it crashed"]
    notes: list[str] = []
    for arm in manifest.arms:
        seen = records[arm.name], samples[arm.name], arm
        reasons += arm_reasons(arms[arm.name], *seen, scheduled=int(manifest.trace["requests"] or 0))
        notes += arm_notes(arms[arm.name], *seen[1:])
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
    )


def rebuild_summary(run_dir: Path) -> Summary:
    """`summarise`, and write `summary.json`. The same records give the same bytes."""
    summary = summarise(run_dir)
    write_atomic(RunDirectory(run_dir).summary, dump_summary(summary))
    return summary


def _by_arm(manifest: Manifest, records: list[RequestRecord]) -> dict[str, list[RequestRecord]]:
    groups: dict[str, list[RequestRecord]] = {arm.name: [] for arm in manifest.arms}
    for record in records:
        groups.setdefault(record.arm, []).append(record)
    return groups


def _samples_by_arm(manifest: Manifest, samples: list[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {arm.name: [] for arm in manifest.arms}
    for sample in samples:
        groups.setdefault(sample.arm, []).append(sample)
    return groups
