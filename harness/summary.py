"""The shape of `summary.json`: what a run comes to, all of it recomputed from the run's raw records.

`None` is undefined, never zero. Every interval is 95 %; `methods` says how each was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from harness.errors import RunFormatError
from harness.results import describe_invalid

__all__ = [
    "SCHEMA",
    "ArmSummary",
    "Better",
    "ClientSummary",
    "Comparison",
    "Estimate",
    "ExpertSummary",
    "Headline",
    "HeadlineRow",
    "Quantiles",
    "RequestCounts",
    "Resources",
    "Summary",
    "Unit",
    "dump_summary",
    "read_summary",
]

SCHEMA = "harness-summary/1"

Unit = Literal["bytes", "s", "share", "per_s", "count"]
Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval. An end that the data cannot bound is `None`."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Percentiles of `n` values; one that `n` values cannot support is `None`.

    `n_effective` is what they are worth as independent ones: neighbours in a queue share their fate.
    """

    n: int
    n_effective: float
    p50: Estimate | None
    p90: Estimate | None
    p99: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCounts:
    """Requests by how they ended; the five outcomes sum up to `scheduled` in a complete run."""

    scheduled: int
    ok: int
    failed: int
    timeout: int
    unsent: int
    cancelled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSummary:
    """The requests that wanted one expert (or got it, where the trace does not say)."""

    requests: int
    ok: int
    accuracy: Estimate | None
    router_accuracy: Estimate | None
    ttft_s: Quantiles
    e2e_s: Quantiles
    output_tokens: int
    switches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSummary:
    """How busy the instrument itself was.

    Attributes:
        cpu_share: of one core, over the arm: 1.0 is a whole core.
        loop_lag_s: how late the send loop woke up, against when it asked to.
    """

    cpu_share: float | None
    loop_lag_s: Quantiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the machine said while the arm ran; `None` where nothing could say.

    Attributes:
        process_bytes: highest resident set of the engine's process.
        engine_cpu_share: mean, of one core.
        gpu_*: NVML; `None` without a GPU, or where a container hides it.
        gpu_used_bytes: highest memory of the engine: of its process, or of the device less what was there before.
        gpu_power_w: mean.
        gpu_sm_clock_mhz, gpu_memory_clock_mhz: lowest seen.
        gpu_throttled_share: of the samples that say anything, those in which the clocks were held back.
        gpu_throttled_by: what held them back at any moment.
        gpu_power_limited_share: of the same samples, those in which the card drew as much power as it may.
    """

    process_bytes: int | None
    engine_cpu_share: float | None
    gpu_memory_bytes: int | None
    gpu_process_bytes: int | None
    gpu_utilisation: float | None
    gpu_energy_j: float | None
    gpu_used_bytes: int | None = None
    gpu_power_w: float | None = None
    gpu_sm_clock_mhz: int | None = None
    gpu_memory_clock_mhz: int | None = None
    gpu_throttled_share: float | None = None
    gpu_throttled_by: tuple[str, ...] = ()
    gpu_power_limited_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm of the run. Formulas and units: docs/metrics.md.

    Attributes:
        window_s: from the arm's zero to the last scheduled arrival: what the `_per_s` figures divide by.
        duration_s: from the arm's zero to the last event of any request.
        switches: distinct switches that any request waited for; engine_switches: what the engine itself counted.
        switch_s: one value per distinct switch, by where the weights came from.
        weight_bytes: by part, and `total`.
    """

    requests: RequestCounts
    accuracy: Estimate | None
    router_accuracy: Estimate | None
    correct_goodput_per_s: Estimate | None
    goodput_per_s: Estimate | None
    slo_attainment: Estimate | None
    output_tokens_per_s: Estimate | None
    requests_per_s: Estimate | None
    output_tokens: int
    window_s: float | None
    duration_s: float | None
    ttft_s: Quantiles
    tpot_s: Quantiles
    e2e_s: Quantiles
    send_lag_s: Quantiles
    route_s: Quantiles
    ttft_s_by_class: Mapping[str, Quantiles]
    switches: int
    engine_switches: int | None
    evictions: int | None
    hit_rate: Estimate | None
    switch_s: Mapping[str, Quantiles]
    moved_bytes: int
    engine_moved_bytes: int | None
    weight_bytes: Mapping[str, int] | None
    budget_bytes: int | None
    kv_bytes: int | None
    process_bytes: int | None
    resources: Resources
    by_expert: Mapping[str, ExpertSummary]
    client: ClientSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two arms on the same requests. Ratios are `arm / baseline`: below 1, the arm's is the smaller."""

    arm: str
    baseline: str
    pairs: int
    ttft_p50: Estimate | None
    ttft_p90: Estimate | None
    ttft_p99: Estimate | None
    e2e_p50: Estimate | None
    switch_p50: Estimate | None
    weight_bytes: float | None
    moved_bytes: float | None
    correct_goodput: float | None
    accuracy_difference: Estimate | None
    equal_outputs: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadlineRow:
    """One figure of the answer. `ratio` is `value / baseline`; `claim` what may be said of it, with its interval."""

    metric: str
    label: str
    unit: Unit
    better: Better
    value: float | None
    baseline: float | None
    ratio: float | None
    claim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What the report says first: sentences, and the figures behind them."""

    arm: str | None
    baseline: str | None
    sentences: tuple[str, ...]
    rows: tuple[HeadlineRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run. `valid` is `False` exactly if `reasons` is not empty; `notes` do not invalidate.

    Attributes:
        did_not_start: arms whose result is that memory does not hold them, and why.
    """

    schema: str = SCHEMA
    run_id: str
    valid: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    partial: bool
    family: Mapping[str, str | int | float | None]
    trace: Mapping[str, str | int | float | None]
    headline: Headline
    arms: Mapping[str, ArmSummary]
    comparison: tuple[Comparison, ...]
    methods: Mapping[str, str]
    did_not_start: Mapping[str, str] = field(default_factory=dict)


_SUMMARY = TypeAdapter(Summary)


def dump_summary(summary: Summary) -> bytes:
    """The summary as indented JSON, newline included. Equal summaries give equal bytes."""
    return _SUMMARY.dump_json(summary, indent=2) + b"\n"


def read_summary(path: Path) -> Summary:
    """The summary in a file.

    Raises:
        RunFormatError: the file is missing or is not a summary.
    """
    try:
        return _SUMMARY.validate_json(path.read_bytes())
    except OSError as error:
        raise RunFormatError(f"{path}: cannot read the summary: {error.strerror}") from error
    except ValidationError as error:
        raise RunFormatError(describe_invalid(path, error)) from error
