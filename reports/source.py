"""A run directory as the report reads it: what it says of itself, its summary, its raw records and samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.records import RequestRecord, read_records
from harness.results import Manifest, RunDirectory
from harness.summary import ArmSummary, Comparison, Summary, read_summary
from harness.telemetry.sample import Sample, read_samples

__all__ = ["RunSource", "read_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """One run, read from disk.

    Attributes:
        manifest: the run's provenance and configuration, as written.
        summary: the figures of the run.
        records: every request of every arm.
        samples: telemetry, in the order taken.
        treatment: the arm the report is about.
        baseline: the arm beside it, `None` if the run has one arm.
    """

    manifest: Manifest
    summary: Summary
    records: Sequence[RequestRecord]
    samples: Sequence[Sample]
    treatment: str | None
    baseline: str | None

    @property
    def arms(self) -> list[str]:
        """Names of the arms, the treatment first."""
        return sorted(self.summary.arms, key=lambda arm: arm != self.treatment)

    def arm(self, name: str | None) -> ArmSummary | None:
        """The summary of an arm; `None` for an arm that did not run."""
        return None if name is None else self.summary.arms.get(name)

    @property
    def comparison(self) -> Comparison | None:
        """Treatment against baseline on the same requests, if both ran."""
        for pair in self.summary.comparison:
            if (pair.arm, pair.baseline) == (self.treatment, self.baseline):
                return pair
        return None

    @property
    def experts(self) -> list[str]:
        """Names of the experts served: those of the treatment's configuration, else those in the records."""
        for arm in self.manifest.arms:
            configured = arm.config.get("experts")
            if arm.name == self.treatment and isinstance(configured, Mapping) and configured:
                return sorted(configured)
        seen = {r.expert_wanted for r in self.records} | {r.expert_chosen for r in self.records}
        return sorted(name for name in seen if name is not None)

    @property
    def has_gpu(self) -> bool:
        """Whether the run's machine had a GPU, as its provenance tells."""
        gpu = self.manifest.provenance.get("gpu")
        return isinstance(gpu, str) and not gpu.startswith("no GPU")

    @property
    def expert_count(self) -> int:
        """How many experts the family serves, as it says itself; else as many as are known by name."""
        count = self.manifest.family.get("experts")
        return count if isinstance(count, int) else len(self.experts)


def read_run(run_dir: Path) -> RunSource:
    """Everything a report needs from `run_dir`; telemetry may be missing, the rest may not.

    Raises:
        RunFormatError: a file is missing or damaged; the message names it.
    """
    files = RunDirectory(run_dir)
    summary = read_summary(files.summary)
    treatment, baseline = _roles(summary)
    return RunSource(
        manifest=files.read_manifest(),
        summary=summary,
        records=read_records(files.requests),
        samples=read_samples(files.telemetry),
        treatment=treatment,
        baseline=baseline,
    )


def _roles(summary: Summary) -> tuple[str | None, str | None]:
    """Treatment and baseline: those of the headline if these arms ran, else the first arms there are."""
    arms = list(summary.arms)
    treatment, baseline = summary.headline.arm, summary.headline.baseline
    if treatment not in arms:
        treatment = "meswitch" if "meswitch" in arms else next(iter(arms), None)
    if baseline not in arms or baseline == treatment:
        baseline = next((arm for arm in arms if arm != treatment), None)
    return treatment, baseline
