"""Fills a GPU as planned, serves requests until everything that is ever allocated is, and reads what is taken."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from harness.errors import DriverError
from harness.flat_table import Configuration, FlatRow, FlatTable
from harness.results import to_json_object
from harness.shapes import whole_spec
from harness.telemetry import GpuMonitor, GpuReading, card_name
from meswitch.config import EngineConfig
from meswitch.core import BASE, Engine, Failed, Finished, GenerationRequest, SamplingParams
from meswitch.cuda.memory_plan import MemoryPlan

__all__ = [
    "COLUMNS",
    "KEY",
    "Filled",
    "TorchReading",
    "configuration",
    "fill",
    "memory_row",
    "memory_table",
    "raw_record",
]

COLUMNS = ("family", "codec", "experts", "planned_bytes", "nvml_bytes")
"""The columns of a row, in order."""

KEY = ("family", "codec", "experts")

OUTPUT_TOKENS = 8


class TorchReading(Protocol):
    """PyTorch's own counts, in bytes."""

    def __call__(self) -> Mapping[str, int]:
        """`reserved`, `allocated`, and the most that either ever was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A GPU that holds an engine.

    Attributes:
        plan: what the engine planned.
        before, after: the driver's counts, without the engine and after it served.
        torch: PyTorch's counts, at the end.
        served: requests that were answered.
    """

    plan: MemoryPlan
    before: GpuReading
    after: GpuReading
    torch: Mapping[str, int]
    served: int

    @property
    def nvml_bytes(self) -> int | None:
        """What the driver counts for this process; where it counts devices alone, what the device gained."""
        if self.after.process_bytes is not None:
            return self.after.process_bytes
        if self.after.memory_bytes is None or self.before.memory_bytes is None:
            return None
        return self.after.memory_bytes - self.before.memory_bytes


def fill(
    config: EngineConfig,
    *,
    vocabulary: int,
    start: Callable[[EngineConfig], Engine],
    gpu: GpuMonitor,
    read_torch: TorchReading,
    say: Callable[[str], None],
) -> Filled:
    """An engine started, its plan said, every row of it used to its end, and the counts taken; it is closed again.

    Args:
        config: of the engine.
        vocabulary: of its base.
        start: builds it.
        gpu: the driver's counts.
        read_torch: PyTorch's counts.
        say: prints a line.

    Raises:
        CapacityError: it does not fit.
        DriverError: a request failed.
    """
    before = gpu.read(os.getpid())
    engine = start(config)
    try:
        plan = MemoryPlan(**engine.stats().memory_plan)
        for line in plan.lines(noun="slots" if config.weights == "delta" else "whole models"):
            say(line)
        served = _serve(engine, config, slots=plan.slots, vocabulary=vocabulary)
        return Filled(plan=plan, before=before, after=gpu.read(os.getpid()), torch=read_torch(), served=served)
    finally:
        engine.close()


def memory_row(filled: Filled, *, family: str, codec: str | None) -> FlatRow:
    """The published row."""
    return {
        "family": family,
        "codec": codec,
        "experts": filled.plan.slots,
        "planned_bytes": filled.plan.planned_bytes,
        "nvml_bytes": filled.nvml_bytes,
    }


def memory_table(path: Path | None) -> FlatTable:
    """The table at `path`, which knows from its raw records how each row was measured.

    Raises:
        RunFormatError: a file holds something else.
    """
    return FlatTable(path, columns=COLUMNS, key=KEY, read_configurations=_recorded)


def configuration(config: EngineConfig, *, gpu: str | None) -> Configuration:
    """What decides a row of an engine beside its key.

    Args:
        gpu: the card that would measure it; `None` where there is none, and rows of any card count.
    """
    return _configuration(_plain(config), gpu=gpu)


def _recorded(record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, object], Configuration]]:
    config = record["config"]
    codec = whole_spec(config["synthetic"]["linear"]) if config["weights"] == "delta" else None
    # the first records do not repeat their row
    row = record.get("row", {"family": config["base"], "codec": codec, "experts": record["plan"]["slots"]})
    yield row, _configuration(config, gpu=card_name(record["provenance"].get("gpu")))


def _configuration(config: Mapping[str, Any], *, gpu: str | None) -> Configuration:
    device, scheduler, synthetic = config["device"], config["scheduler"], config["synthetic"]
    facts: dict[str, str | int | None] = {
        "memory budget": config["memory_budget_bytes"],
        "rows": scheduler["max_rows"],
        "tokens of keys and values": scheduler["max_rows"] * scheduler["max_context_tokens"],
        "dtype": device["dtype"],
        "tokens of a chunk": device["prefill_chunk_tokens"],
        "seed": synthetic["seed"],
    }
    if config["weights"] == "delta":
        facts |= {name: whole_spec(synthetic[name]) for name in ("embedding", "head")}
    if gpu is not None:
        facts["GPU"] = gpu
    return facts


def raw_record(filled: Filled, config: EngineConfig, provenance: Mapping[str, object]) -> dict[str, object]:
    """Everything that was counted. Of experts that differ in nothing but their number, the first is named."""
    return {
        "provenance": provenance,
        "config": _plain(config),
        "experts_offered": len(config.experts),
        "plan": asdict(filled.plan),
        "nvml_before": asdict(filled.before),
        "nvml_after": asdict(filled.after),
        "torch": dict(filled.torch),
        "served": filled.served,
    }


def _plain(config: EngineConfig) -> dict[str, Any]:
    # names, not places: where the shapes lie on this machine is nobody's business
    first = {name: Path(path.name) for name, path in list(config.experts.items())[:1]}
    return to_json_object(replace(config, base=Path(config.base.name), experts=first))


def _serve(engine: Engine, config: EngineConfig, *, slots: int, vocabulary: int) -> int:
    """Requests answered: one for each row, as long as a row takes, of one resident expert after another."""
    names = (*config.experts, BASE)[:slots]
    limits = config.scheduler
    outputs = min(OUTPUT_TOKENS, limits.max_context_tokens - 1)
    for row in range(limits.max_rows):
        engine.submit(
            GenerationRequest(
                request_id=str(row),
                token_ids=tuple((row + 7 * i) % vocabulary for i in range(limits.max_context_tokens - outputs)),
                expert=names[row % len(names)],
                sampling=SamplingParams(max_tokens=outputs, ignore_eos=True),
            )
        )
    served = 0
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, Failed):
                raise DriverError(f"a request of {names[int(event.request_id) % len(names)]} failed: {event.message}")
            served += isinstance(event, Finished)
    return served
