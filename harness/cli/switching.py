"""`harness switching`: what a switch costs whoever waits for it, and everyone else."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.cli import engine_flags
from harness.engines import DEFAULT_CUDA_BUDGET, make_options
from harness.planning import DEFAULT_CODEC
from harness.results import check_runs_dir
from harness.sizes import parse_bytes
from harness.switching.build import SwitchingTables, rebuild_switching
from harness.switching.execute import execute_switching, host_to_device_bytes_per_s
from harness.switching.plan import SwitchingOptions, plan_switching
from harness.switching.results import SettingRecord, SwitchingDirectory
from harness.telemetry import check_gpu, open_gpu
from harness.units import format_factor, format_number

__all__ = ["switching"]

OK, INVALID = 0, 2
DEFAULTS = SwitchingOptions()


def switching(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where tables and raw requests are kept.")],
    family: Annotated[str, typer.Option(help="A shape, such as mistral-7b, or a trained family.")] = "mistral-7b",
    codec: engine_flags.Codec = DEFAULT_CODEC,
    device: engine_flags.Device = "cuda",
    dtype: engine_flags.Dtype = None,
    memory_budget: Annotated[str | None, typer.Option(help="Such as 76GiB.")] = None,
    host_budget: engine_flags.HostBudget = "8GiB",
    slots: Annotated[int, typer.Option(help="Experts on the GPU; twice as many are asked for.")] = DEFAULTS.slots,
    pairs: Annotated[int, typer.Option(help="Of a miss and a hit, at least 30.")] = DEFAULTS.pairs,
    prompt_tokens: Annotated[int, typer.Option(help="Of each request.")] = DEFAULTS.prompt_tokens,
    output_tokens: Annotated[int, typer.Option(help="Of the requests in pairs.")] = DEFAULTS.output_tokens,
    phase: Annotated[
        float, typer.Option(help="Seconds of each of four phases, with and without switches.")
    ] = DEFAULTS.phase_s,
    streams: Annotated[int, typer.Option(help="Answers that run all the time then.")] = DEFAULTS.streams,
    stream_tokens: Annotated[int, typer.Option(help="Of each of those.")] = DEFAULTS.stream_tokens,
    switches_per_s: Annotated[float, typer.Option(help="For others, then.")] = DEFAULTS.switches_per_s,
    seed: Annotated[int, typer.Option(help="Of prompts; 0 is a seed.")] = DEFAULTS.seed,
    commit: engine_flags.Commit = None,
) -> int:
    """Compare first tokens of resident experts with those that come from elsewhere, and see what others notice."""
    options = SwitchingOptions(
        slots=slots,
        pairs=pairs,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        phase_s=phase,
        streams=streams,
        stream_tokens=stream_tokens,
        switches_per_s=switches_per_s,
        seed=seed,
    )
    engine = make_options(
        device=device, dtype=dtype, host_budget_bytes=parse_bytes(host_budget) if host_budget else None
    )
    check_runs_dir(out, option="--out")
    console, directory = Console(stderr=True), SwitchingDirectory(out)
    with closing(open_gpu()) as gpu:
        # before anything is made ready for a GPU that is not there
        check_gpu(engine.device, gpu)
        with console.status("preparing") as status:
            plan = plan_switching(
                options,
                engine,
                family=family,
                codec=codec,
                budget=parse_bytes(memory_budget) if memory_budget else DEFAULT_CUDA_BUDGET,
                commit=commit,
                report=status.update,
            )
        bytes_per_s = host_to_device_bytes_per_s()
        console.print(f"from pinned host memory: {bytes_per_s / 1e9:.1f} GB/s", highlight=False)
        execute_switching(
            plan,
            directory,
            gpu=gpu,
            bytes_per_s=bytes_per_s,
            on_setting=lambda record: console.print(_line(record), highlight=False, soft_wrap=True),
        )
    tables = rebuild_switching(directory)
    _print(tables)
    typer.echo(f"written {directory.rows} and {directory.interference}")
    reasons = [reason for row in tables.rows for reason in row.reasons]
    reasons += [reason for row in tables.interference for reason in row.reasons]
    for reason in dict.fromkeys(reasons):
        console.print(f"not valid: {reason}", highlight=False, soft_wrap=True)
    usable = all(row.valid and row.n for row in tables.rows) and all(row.valid for row in tables.interference)
    return OK if usable else INVALID


def _line(record: SettingRecord) -> str:
    return f"{record.name}: {record.outcome}" + (f": {record.message}" if record.message else "")


def _print(tables: SwitchingTables) -> None:
    table = _table(
        "arm", "expert", "n", "TTFT ms", "penalty ms", "95 %", "copy ms", "floor ms", "ratio", "whole: copy", "penalty"
    )
    for row in tables.rows:
        ends = "–" if row.interval is None else f"[{format_number(row.interval[0])}, {format_number(row.interval[1])}]"
        numbers = (row.ttft_ms, row.ttft_penalty_ms)
        table.add_row(
            row.arm,
            row.case,
            str(row.n),
            *map(format_number, numbers),
            ends,
            format_number(row.copy_ms),
            format_number(row.copy_floor_ms),
            format_factor(row.copy_ratio),
            format_factor(row.whole_model_ratio),
            format_factor(row.whole_model_penalty_ratio),
        )
    Console().print(table, "")
    table = _table("arm", "case", "figure", "without ms", "with ms", "ratio", "95 %", "switches")
    for beside in tables.interference:
        table.add_row(
            beside.arm,
            beside.case,
            beside.figure,
            format_number(beside.without_ms),
            format_number(beside.with_ms),
            format_factor(beside.ratio),
            f"[{format_number(beside.ratio_low)}, {format_number(beside.ratio_high)}]",
            str(beside.switches),
        )
    Console().print(table, "")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(
            heading, justify="left" if heading in ("arm", "case", "expert", "figure") else "right", no_wrap=True
        )
    return table
