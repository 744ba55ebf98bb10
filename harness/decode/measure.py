"""Measures decode steps case by case: groups of the same rows and context, interleaved, into a table that resumes."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.cuda_timing import BlockTimer
from harness.decode.case import DecodeCase
from harness.decode.floor import step_read_bytes, whole_models_read_bytes
from harness.decode.options import DecodeOptions
from harness.decode.rig import Rig
from harness.flat_table import Configuration, FlatRow, FlatTable
from harness.gpu_rows import GpuInputs, gpu_configuration, incomplete_groups, take_turns
from harness.random_model import Layouts
from harness.telemetry import card_name

__all__ = [
    "COLUMNS",
    "KEY",
    "MeasureInputs",
    "decode_table",
    "measure_decode",
    "missing_groups",
    "row_key",
]

COLUMNS = (
    "family", "codec", "B", "E", "context", "step_ms", "step_ms_low", "step_ms_high", "floor_ms", "ratio_to_floor",
    "base_only_ms",
)  # fmt: skip
"""The columns of a row, in order."""

KEY = ("family", "codec", "B", "E", "context")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureInputs(GpuInputs):
    """What a measurement is made of.

    Attributes:
        options: what to measure.
        layouts: of base and experts.
        read_bandwidth: bytes per second, measured in this run.
    """

    options: DecodeOptions
    layouts: Layouts
    read_bandwidth: float


def row_key(case: DecodeCase, *, family: str, codec: str) -> dict[str, str | int | None]:
    """What tells the case's row apart; a step of the base alone has no codec."""
    return {"family": family, "codec": codec if case.E else None, "B": case.B, "E": case.E, "context": case.context}


def decode_table(path: Path | None) -> FlatTable:
    """The table at `path`, which knows from its raw records how each row was measured.

    Raises:
        RunFormatError: a file holds something else.
    """
    return FlatTable(path, columns=COLUMNS, key=KEY, read_configurations=_recorded)


def _recorded(record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, object], Configuration]]:
    gpu = card_name(record["provenance"].get("gpu"))
    for case in record["cases"]:
        yield case, _configuration(record["options"], experts=case["E"], gpu=gpu)


def _configuration(options: Mapping[str, Any], *, experts: int, gpu: str | None) -> Configuration:
    return gpu_configuration(options, ("dtype", "repeats", "replays"), has_experts=experts > 0, gpu=gpu)


def missing_groups(
    options: DecodeOptions, table: FlatTable, *, family: str, codec: str, gpu: str | None = None
) -> list[tuple[DecodeCase, ...]]:
    """The cases to measure, in groups of the same rows and context; a group that lacks one row is measured anew.

    Args:
        gpu: the card that would measure them; `None` where there is none, and rows of any card count.

    Raises:
        UsageError: a row is there that was measured in another way.
    """
    plain = asdict(options)

    def has(case: DecodeCase) -> bool:
        wanted = row_key(case, family=family, codec=codec)
        return table.has(wanted, _configuration(plain, experts=case.E, gpu=gpu))

    def rows(case: DecodeCase) -> tuple[int, int]:
        return case.context, case.B

    return incomplete_groups(options.cases, group_of=rows, has=has)


def measure_decode(
    rig: Rig, inputs: MeasureInputs, groups: Iterable[Sequence[DecodeCase]], table: FlatTable
) -> Iterable[FlatRow]:
    """Measure each group and keep its rows; yields them as they come."""
    for group in groups:
        before = inputs.gpu.state()
        samples = _interleave(rig, group, inputs.options, inputs.time_block)
        rows = [_row(case, samples, inputs) for case in group]
        table.add(rows, raw=_raw(group, samples, inputs, before))
        yield from rows


def _interleave(
    rig: Rig, group: Sequence[DecodeCase], options: DecodeOptions, time_block: BlockTimer
) -> dict[DecodeCase, list[float]]:
    """Milliseconds of a step in each repeat; the cases take turns, forward and backward."""
    samples: dict[DecodeCase, list[float]] = {case: [] for case in group}

    def measure(case: DecodeCase) -> None:
        step = rig.load(case, steps=options.replays)
        samples[case].append(time_block(step, options.replays) / options.replays)

    take_turns([partial(measure, case) for case in group], options.repeats)
    return samples


def _row(case: DecodeCase, samples: Mapping[DecodeCase, Sequence[float]], inputs: MeasureInputs) -> FlatRow:
    step_ms = statistics.median(samples[case])
    floor_ms = _milliseconds(step_read_bytes(case, inputs.layouts.whole, inputs.layouts.slot), inputs)
    return {
        **row_key(case, family=inputs.family, codec=inputs.codec),
        "step_ms": step_ms,
        "step_ms_low": min(samples[case]),
        "step_ms_high": max(samples[case]),
        "floor_ms": floor_ms,
        "ratio_to_floor": step_ms / floor_ms,
        "base_only_ms": statistics.median(samples[case.base_only]),
    }


def _raw(
    group: Sequence[DecodeCase],
    samples: Mapping[DecodeCase, Sequence[float]],
    inputs: MeasureInputs,
    before: object,
) -> dict[str, object]:
    whole = inputs.layouts.whole
    return {
        **inputs.raw_header(inputs.options, group, before=before),
        "read_bandwidth_bytes_per_s": inputs.read_bandwidth,
        "cases": [
            {
                **row_key(case, family=inputs.family, codec=inputs.codec),
                "step_ms": list(samples[case]),
                "read_bytes": step_read_bytes(case, whole, inputs.layouts.slot),
                "whole_models_floor_ms": _milliseconds(whole_models_read_bytes(case, whole), inputs),
            }
            for case in group
        ],
    }


def _milliseconds(nbytes: int, inputs: MeasureInputs) -> float:
    return nbytes / inputs.read_bandwidth * 1e3
