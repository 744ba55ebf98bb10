"""From what a user asks to a table of prompts: checked before any work, printed as it grows."""

from collections.abc import Callable
from pathlib import Path

import torch

from harness.cuda_timing import time_block
from harness.flat_table import FlatRow
from harness.prefill.measure import MeasureInputs, measure_prefill, missing_groups, prefill_table
from harness.prefill.options import PrefillOptions
from harness.prefill.rig import build_prefill, plan_prefill, prefill_layouts
from harness.provenance import collect_provenance
from harness.random_model import check_window
from harness.shapes import whole_spec
from harness.telemetry import GpuMonitor, card_name, check_gpu
from meswitch.config import DeviceConfig
from meswitch.cuda.availability import check_device
from meswitch.families import load_shape_family

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
    family = load_shape_family(options.family)
    check_window(family, options.row_tokens, options="--start and --tokens")
    layouts = prefill_layouts(family, options)
    codec = whole_spec(options.synthetic.linear)
    table = prefill_table(path)
    groups = missing_groups(options, table, family=family.name, codec=codec, gpu=card_name(gpu.description))
    if not groups:
        say(f"all rows are in {path}")
        return
    check_gpu("cuda", gpu)
    check_device(DeviceConfig(kind="cuda", dtype=options.dtype, index=options.index))
    device = torch.device("cuda", options.index)
    torch.cuda.set_device(device)
    for line in plan_prefill(family, options, layouts, device).lines():
        say(line)
    say(gpu.description)
    inputs = MeasureInputs(
        family=family.name,
        codec=codec,
        options=options,
        time_block=time_block,
        gpu=gpu,
        provenance=collect_provenance(gpu, commit=commit),
    )
    with torch.inference_mode():
        rig = build_prefill(family, options, layouts, device)
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
