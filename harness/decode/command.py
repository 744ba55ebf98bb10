"""From what a user asks to a table of decode steps: checked before any work, printed as it grows."""

from collections.abc import Callable
from pathlib import Path

import torch

from harness.cuda_timing import time_block
from harness.decode.case import DecodeCase
from harness.decode.floor import whole_models_read_bytes
from harness.decode.measure import MeasureInputs, decode_table, measure_decode, missing_groups
from harness.decode.options import DecodeOptions
from harness.decode.profile import profile_decode, trace_steps
from harness.decode.rig import build_decode, decode_subject, plan_decode
from harness.flat_table import FlatRow
from harness.provenance import collect_provenance
from harness.random_model import Layouts, take_device
from harness.telemetry import GpuMonitor, card_name
from meswitch_kernels.timing import read_bandwidth

__all__ = ["format_row", "run_decode", "whole_models_line"]


def run_decode(
    options: DecodeOptions,
    path: Path | None,
    *,
    gpu: GpuMonitor,
    commit: str | None,
    profile: Path | None = None,
    say: Callable[[str], None],
) -> None:
    """Measure what `path` lacks of the options' cases. Prints the memory plan, then a line a case.

    Args:
        options: what to measure.
        path: of the table; `None` prints only.
        gpu: of the options' index.
        commit: of the code, where it is not a git checkout.
        profile: where to write each case's kernels; `None` for no profile.
        say: prints a line.

    Raises:
        HarnessError, MeswitchError: the options cannot be measured here: no GPU, no room, no such shape or codec.
    """
    subject = decode_subject(options)
    family, codec = subject.family.name, subject.codec
    table = decode_table(path)
    groups = missing_groups(options, table, family=family, codec=codec, gpu=card_name(gpu.description))
    if not groups and profile is None:
        say(f"all rows are in {path}")
        return
    device = take_device(gpu, index=options.index, dtype=options.dtype)
    for line in plan_decode(subject, options, device).lines():
        say(line)
    # before the weights take the memory that it reads
    bandwidth = read_bandwidth()
    torch.cuda.empty_cache()
    inputs = MeasureInputs(
        family=family,
        codec=codec,
        options=options,
        layouts=subject.layouts,
        read_bandwidth=bandwidth,
        time_block=time_block,
        gpu=gpu,
        provenance=collect_provenance(gpu, commit=commit),
    )
    say(f"{gpu.description}: read bandwidth {bandwidth / 1e12:.3f} TB/s; {whole_models_line(subject.layouts, inputs)}")
    with torch.inference_mode():
        rig = build_decode(subject, options, device)
        for row in measure_decode(rig, inputs, groups, table):
            say(format_row(row))
        if profile is not None:
            profile_decode(rig, options.cases, profile, trace=trace_steps, say=say)


def whole_models_line(layouts: Layouts, inputs: MeasureInputs) -> str:
    """What a step of the largest case would take at least if every expert were a whole model."""
    case = max(inputs.options.cases, key=lambda case: (case.E, case.B))
    return _whole_models(case, whole_models_read_bytes(case, layouts.whole) / inputs.read_bandwidth * 1e3)


def _whole_models(case: DecodeCase, floor_ms: float) -> str:
    return f"{case.B} rows of {max(case.E, 1)} whole models would take at least {floor_ms:.1f} ms a step"


def format_row(row: FlatRow) -> str:
    """One case on a line."""
    return (
        f"B {row['B']:>3} E {row['E']:>3} context {row['context']:>5}  {row['step_ms']:7.3f} ms "
        f"[{row['step_ms_low']:.3f}, {row['step_ms_high']:.3f}]  floor {row['floor_ms']:6.3f} ms, "
        f"{row['ratio_to_floor']:.2f} x; base alone {row['base_only_ms']:.3f} ms"
    )
