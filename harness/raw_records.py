"""A folder of measurements: for each a file of facts, one of raw requests, one of samples; whole or not there."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.records import RequestRecord, dump_line, parse_line
from harness.results import read_lines, write_atomic, write_lines
from harness.telemetry.sample import Sample, dump_sample, parse_sample

__all__ = ["RawRecords"]


@dataclass(frozen=True, slots=True)
class RawRecords:
    """The measurements in one folder, by name."""

    folder: Path

    def facts(self, name: str) -> Path:
        """What is known of a measurement beside its requests."""
        return self.folder / f"{name}.json"

    def all_facts(self) -> Iterator[Path]:
        """The facts of all measurements, by name."""
        yield from sorted(self.folder.glob("*.json"))

    def write(self, name: str, facts: bytes, requests: Iterable[RequestRecord], samples: Iterable[Sample]) -> None:
        """Write a measurement; its facts come last, so that where they are, all of it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_lines(self._requests(name), map(dump_line, requests))
        write_lines(self._samples(name), map(dump_sample, samples))
        write_atomic(self.facts(name), facts + b"\n")

    def read_requests(self, name: str) -> list[RequestRecord]:
        """The requests of a measurement, as they ended.

        Raises:
            RunFormatError: the file is missing or damaged.
        """
        path = self._requests(name)
        return [parse_line(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)]

    def read_samples(self, name: str) -> list[Sample]:
        """The samples of the machine meanwhile.

        Raises:
            RunFormatError: the file is missing or damaged.
        """
        path = self._samples(name)
        return [parse_sample(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), 1)]

    def _requests(self, name: str) -> Path:
        return self.folder / f"{name}.requests.jsonl.gz"

    def _samples(self, name: str) -> Path:
        return self.folder / f"{name}.telemetry.jsonl.gz"
