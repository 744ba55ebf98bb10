"""Measures prompts case by case: groups of one length, interleaved, into a table that resumes."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.flat_table import Configuration, FlatRow, FlatTable
from harness.gpu_rows import GpuInputs, gpu_configuration, incomplete_groups, take_turns
from harness.prefill.case import PrefillCase
from harness.prefill.options import PrefillOptions
from harness.prefill.rig import Rig
from harness.prefill.timing import PromptTimes
from harness.telemetry import card_name

__all__ = ["COLUMNS", "KEY", "MeasureInputs", "measure_prefill", "missing_groups", "prefill_table"]

COLUMNS = (
    "family", "codec", "tokens", "start", "launches", "prompt_ms", "prompt_ms_low", "prompt_ms_high", "host_ms",
    "base_products_ms", "ratio_to_base_products", "base_only_ms",
)  # fmt: skip
"""The columns of a row, in order."""

KEY = ("family", "codec", "tokens", "start", "launches")

DECIDING = ("dtype", "repeats", "chunk_tokens")
"""Options that decide a row, beside those that every row depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureInputs(GpuInputs):
    """What a measurement is made of: `options` say what to measure; `time_block` times the base's products."""

    options: PrefillOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Samples:
    """What every repeat of a group gave: of each case, and of the base's products in milliseconds."""

    prompts: Mapping[PrefillCase, list[PromptTimes]]
    products: list[float]


def prefill_table(path: Path | None) -> FlatTable:
    """The table at `path`, which knows from its raw records how each row was measured.

    Raises:
        RunFormatError: a file holds something else.
    """
    return FlatTable(path, columns=COLUMNS, key=KEY, read_configurations=_recorded)


def _recorded(record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, object], Configuration]]:
    gpu = card_name(record["provenance"].get("gpu"))
    for case in record["cases"]:
        has_expert = case["codec"] is not None
        yield case, gpu_configuration(record["options"], DECIDING, has_experts=has_expert, gpu=gpu)


def missing_groups(
    options: PrefillOptions, table: FlatTable, *, family: str, codec: str, gpu: str | None = None
) -> list[tuple[PrefillCase, ...]]:
    """The cases to measure, in groups of the same tokens; a group that lacks one row is measured anew.

    Args:
        gpu: the card that would measure them; `None` where there is none, and rows of any card count.

    Raises:
        UsageError: a row is there that was measured in another way.
    """
    plain = asdict(options)

    def has(case: PrefillCase) -> bool:
        facts = gpu_configuration(plain, DECIDING, has_experts=case.has_expert, gpu=gpu)
        return table.has(_row_key(case, family=family, codec=codec), facts)

    return incomplete_groups(options.cases, group_of=lambda case: (case.start, case.tokens), has=has)


def measure_prefill(
    rig: Rig, inputs: MeasureInputs, groups: Iterable[Sequence[PrefillCase]], table: FlatTable
) -> Iterable[FlatRow]:
    """Measure each group and keep its rows; yields them as they come."""
    for group in groups:
        before = inputs.gpu.state()
        samples = _interleave(rig, group, inputs)
        rows = [_row(case, samples, inputs) for case in group]
        table.add(rows, raw=_raw(group, samples, inputs, before))
        yield from rows


def _interleave(rig: Rig, group: Sequence[PrefillCase], inputs: MeasureInputs) -> _Samples:
    """Every repeat of a group of prompts, and of the products that all of them make, which take turns with them."""
    samples = _Samples(prompts={case: [] for case in group}, products=[])
    products = rig.products(group[0].tokens)

    def measure(case: PrefillCase) -> None:
        samples.prompts[case].append(rig.run(case))

    def measure_products() -> None:
        samples.products.append(inputs.time_block(products, 1))

    take_turns([*(partial(measure, case) for case in group), measure_products], inputs.options.repeats)
    return samples


def _row(case: PrefillCase, samples: _Samples, inputs: MeasureInputs) -> FlatRow:
    times = [sample.prompt_ms for sample in samples.prompts[case]]
    prompt_ms, products_ms = statistics.median(times), statistics.median(samples.products)
    return {
        **_row_key(case, family=inputs.family, codec=inputs.codec),
        "prompt_ms": prompt_ms,
        "prompt_ms_low": min(times),
        "prompt_ms_high": max(times),
        "host_ms": statistics.median(sample.host_ms for sample in samples.prompts[case]),
        "base_products_ms": products_ms,
        "ratio_to_base_products": prompt_ms / products_ms,
        "base_only_ms": statistics.median(sample.prompt_ms for sample in samples.prompts[case.base_only]),
    }


def _raw(group: Sequence[PrefillCase], samples: _Samples, inputs: MeasureInputs, before: object) -> dict[str, object]:
    return {
        **inputs.raw_header(inputs.options, group, before=before),
        "base_products_ms": samples.products,
        "cases": [
            {
                **_row_key(case, family=inputs.family, codec=inputs.codec),
                "prompt_ms": [sample.prompt_ms for sample in samples.prompts[case]],
                "host_ms": [sample.host_ms for sample in samples.prompts[case]],
                "first_tokens": [sample.token for sample in samples.prompts[case]],
            }
            for case in group
        ],
    }


def _row_key(case: PrefillCase, *, family: str, codec: str) -> dict[str, str | int | None]:
    """What tells the case's row apart; a prompt of the base alone has no codec."""
    return {
        "family": family,
        "codec": codec if case.has_expert else None,
        "tokens": case.tokens,
        "start": case.start,
        "launches": case.launches,
    }
