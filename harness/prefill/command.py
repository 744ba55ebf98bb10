"""From what a user asks to a table of prompts: checked before any work, printed as it grows."""

from collections.abc import Callable
from pathlib import Path

import torch

from harness.cuda_timing import time_block
from harness.flat_table import FlatRow
from harness.prefill.measure import MeasureInputs, measure_prefill, missing_groups, prefill_table
from harness.prefill.options import PrefillOptions
from harness.prefill.rig import build_prefill, plan_prefill, prefill_subject
from harness.provenance import collect_provenance
from harness.random_model import take_device
from harness.telemetry import GpuMonitor, card_name

__all__ = ["format_row", "run_prefill"]


def run_prefill(
    options: PrefillOptions,
    path: Path | None,
    *,
    gpu: GpuMonitor,
    commit: str | None,
    say: Callable[[str], None],
) -> None:
    """Measure what `path` lacks of the options' cases. Prints the memory plan, then a line a case.

    Args:
        options: what to measure.
        path: of the table; `None` prints only.
        gpu: of the options' index.
        commit: of the code, where it is not a git checkout.
        say: prints a line.

    Raises:
        HarnessError, MeswitchError: the options cannot be measured here: no GPU, no room, no such shape or codec.
    """
    subject = prefill_subject(options)
    family, codec = subject.family.name, subject.codec
    table = prefill_table(path)
    groups = missing_groups(options, table, family=family, codec=codec, gpu=card_name(gpu.description))
    if not groups:
        say(f"all rows are in {path}")
        return
    device = take_device(gpu, index=options.index, dtype=options.dtype)
    for line in plan_prefill(subject, options, device).lines():
        say(line)
    say(gpu.description)
    inputs = MeasureInputs(
        family=family,
        codec=codec,
        options=options,
        time_block=time_block,
        gpu=gpu,
        provenance=collect_provenance(gpu, commit=commit),
    )
    with torch.inference_mode():
        rig = build_prefill(subject, options, device)
        for row in measure_prefill(rig, inputs, groups, table):
            say(format_row(row))


def format_row(row: FlatRow) -> str:
    """One case on a line."""
    return (
        f"{row['tokens']:>5} tokens from {row['start']:>5}  {row['launches']:6}  "
        f"{'base  ' if row['codec'] is None else 'expert'}  {row['prompt_ms']:7.3f} ms "
        f"[{row['prompt_ms_low']:.3f}, {row['prompt_ms_high']:.3f}], launched in {row['host_ms']:.3f} ms  "
        f"the base's products {row['base_products_ms']:.3f} ms, {row['ratio_to_base_products']:.2f} x; "
        f"base alone {row['base_only_ms']:.3f} ms"
    )
