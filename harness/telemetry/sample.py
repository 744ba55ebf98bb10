"""One line of `telemetry.jsonl`: the state of the machine at one moment of an arm."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.errors import RunFormatError

__all__ = ["Sample", "dump_sample", "parse_sample", "read_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Everything is as of `t_ns` after the arm's zero; `None` is what nothing could tell.

    Attributes:
        process_rss_bytes: resident set of the engine's process.
        engine_cpu_share, client_cpu_share: of one core, since the sample before.
        loop_lag_ns: the longest overrun of a wait in the send loop since the sample before.
        sampler_lag_ns: how late this sample itself was.
        in_flight: requests sent and not ended.
        gpu_memory_bytes: device memory in use; gpu_process_bytes: of the engine's process.
        gpu_energy_j: since the driver was loaded; only differences mean something.
        gpu_sm_clock_mhz, gpu_memory_clock_mhz, gpu_throttle: in a few samples a second; what holds the clocks back, by
            the names of `harness.telemetry.gpu.THROTTLE_REASONS`.
    """

    t_ns: int
    arm: str
    repeat: int = 0
    process_rss_bytes: int | None = None
    engine_cpu_share: float | None = None
    client_rss_bytes: int | None = None
    client_cpu_share: float | None = None
    loop_lag_ns: int | None = None
    sampler_lag_ns: int | None = None
    in_flight: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_process_bytes: int | None = None
    gpu_utilisation: float | None = None
    gpu_power_w: float | None = None
    gpu_energy_j: float | None = None
    gpu_sm_clock_mhz: int | None = None
    gpu_memory_clock_mhz: int | None = None
    gpu_throttle: tuple[str, ...] | None = None


_SAMPLE = TypeAdapter(Sample)


def dump_sample(sample: Sample) -> bytes:
    """The sample as one line of JSON."""
    return _SAMPLE.dump_json(sample) + b"\n"


def read_samples(path: Path) -> list[Sample]:
    """The samples in a file; none if there is no file. A torn last line is left out.

    Raises:
        RunFormatError: a whole line is not a sample.
    """
    if not path.exists():
        return []
    samples = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        samples.append(parse_sample(line, f"{path}, line {number}"))
    return samples


def parse_sample(line: bytes, place: str) -> Sample:
    """The sample of a line of JSON, which is at `place`.

    Raises:
        RunFormatError: it is none.
    """
    try:
        return _SAMPLE.validate_json(line)
    except ValidationError as error:
        raise RunFormatError(f"{place}: {error.errors()[0]['msg']}") from error
