"""From what a user asks to a row of the table of memory: checked before any work, the plan said before the figures."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from harness.flat_table import FlatRow
from harness.provenance import collect_provenance
from harness.residency.measure import configuration, fill, memory_row, memory_table, raw_record
from harness.residency.options import MemoryOptions
from harness.shapes import whole_spec
from harness.telemetry import GpuMonitor, card_name, check_gpu
from meswitch.cuda.availability import check_budget, check_device
from meswitch.engine import build_engine
from meswitch.families import load_shape_family

__all__ = ["format_row", "run_memory"]


def run_memory(
    options: MemoryOptions,
    path: Path | None,
    *,
    gpu: GpuMonitor,
    commit: str | None,
    say: Callable[[str], None],
) -> None:
    """Measure one row, unless `path` has it already.

    Args:
        options: what to measure.
        path: of the table; `None` prints only.
        gpu: of the options' index.
        commit: of the code, where it is not a git checkout.
        say: prints a line.

    Raises:
        HarnessError, MeswitchError: it cannot be measured here: no GPU, no room, no such shape or codec; or `path` has
            a row of its key that was measured in another way.
    """
    family = load_shape_family(options.family)
    config = options.engine_config(family)
    codec = _codec(options)
    table = memory_table(path)
    asked = configuration(config, gpu=card_name(gpu.description))
    wanted = {"family": family.name, "codec": codec, "experts": options.experts}
    if options.experts is not None and table.has(wanted, asked):
        say(f"the row is in {path}")
        return
    check_gpu("cuda", gpu)
    check_device(config.device)
    check_budget(options.budget_bytes, index=options.index)
    filled = fill(
        config,
        vocabulary=family.shape.vocabulary,
        start=build_engine,
        gpu=gpu,
        read_torch=lambda: _read_torch(options.index),
        say=say,
    )
    row = memory_row(filled, family=family.name, codec=codec)
    say(format_row(row))
    # how many fit is known only now
    table.has(row, asked)
    table.add([row], raw={**raw_record(filled, config, collect_provenance(gpu, commit=commit)), "row": row})


def format_row(row: FlatRow) -> str:
    """The row on a line, in GiB."""
    planned, counted = row["planned_bytes"], row["nvml_bytes"]
    assert isinstance(planned, int)
    head = f"{row['experts']} of {row['family']} ({row['codec'] or 'whole models'}): planned {planned / 2**30:.2f} GiB"
    if not isinstance(counted, int):
        return f"{head}, the driver counts nothing for process {os.getpid()}"
    return f"{head}, NVML {counted / 2**30:.2f} GiB ({counted / planned - 1:+.1%})"


def _codec(options: MemoryOptions) -> str | None:
    if options.weights == "full":
        return None
    return whole_spec(options.synthetic.linear)


def _read_torch(index: int) -> Mapping[str, int]:
    return {
        "allocated": torch.cuda.memory_allocated(index),
        "reserved": torch.cuda.memory_reserved(index),
        "max_allocated": torch.cuda.max_memory_allocated(index),
        "max_reserved": torch.cuda.max_memory_reserved(index),
    }
