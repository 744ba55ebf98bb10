"""`python -m meswitch_kernels.bench [--json FILE] [--full]`: device time of every kernel beside its floor.

A case is timed only after its result was compared with the reference. Times are of CUDA-graph replays over rotating
buffers that together exceed the L2 cache several times; slicing the activations is part of the time of `delta_matmul`,
grouping rows (once a step for all layers) is not. `FILE` gets one flat row a case and is resumed if it exists; `FILE`
with the suffix `.raw.jsonl` gets every repeat, and what it was measured on.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from meswitch_kernels.activations import slice_activations
from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.bench_cases import BenchCase, grid, make_arena
from meswitch_kernels.delta_matmul import delta_matmul
from meswitch_kernels.errors import BenchmarkError, KernelError, KernelUnavailableError
from meswitch_kernels.fused_matmul import fused_matmul
from meswitch_kernels.grouping import group_rows, tile_width
from meswitch_kernels.launch import triton
from meswitch_kernels.reference import delta_matmul_ref, fused_matmul_ref
from meswitch_kernels.sparse_arena import SparseArena
from meswitch_kernels.tiling import DeltaMatmulConfig
from meswitch_kernels.timing import Timing, matmul_rate, read_bandwidth, time_calls

__all__ = ["COLUMNS", "delta_calls", "main", "measure"]

COLUMNS = (
    "kernel", "layer", "N", "K", "B", "E", "bits", "salient", "time_us", "time_us_low", "time_us_high", "bytes",
    "fraction_of_read_bandwidth", "ratio_to_cublas_base", "ratio_to_fp16_bmm",
)  # fmt: skip
"""The columns of a row, in order."""

_L2_MULTIPLE = 4
_MAX_SETS = 48
_BMM_LIMIT_BYTES = 16 << 30

Row = dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Baselines:
    """Vendor-library times of the same shapes, by what they depend on; measured once a run."""

    base: dict[tuple[int, int, int], Timing]
    bmm: dict[tuple[int, int, int, int], Timing]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 if every case was measured, 1 if something refused. Prints one line a case."""
    parser = argparse.ArgumentParser(
        prog="python -m meswitch_kernels.bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows here; resumed if it exists")
    parser.add_argument("--full", action="store_true", help="also 1, 4 and 8 bits, and signed positions (0.75 and 0.5)")
    parser.add_argument("--only", metavar="KERNEL", help="delta_matmul, delta_matmul_sliced or fused_matmul")
    parser.add_argument("--bits", type=float, help="one code width of the grid: 0.5, 0.75, 1, 2, 4 or 8")
    parser.add_argument("--commit", help="of the code, where it is not a git checkout")
    parser.add_argument("--seconds", type=float, help="stop before a case once this much time has passed")
    options = parser.parse_args(arguments)
    try:
        cases = [c for c in grid(full=options.full or options.bits is not None) if options.only in (None, c.kernel)]
        cases = [c for c in cases if options.bits in (None, c.bits)]
        measure(cases, options.json, seconds=options.seconds, commit=options.commit)
    except KernelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def measure(
    cases: Sequence[BenchCase], path: Path | None, *, seconds: float | None = None, commit: str | None = None
) -> list[Row]:
    """Rows of `cases`, written to `path` after each; cases already there are not measured again.

    Raises:
        KernelUnavailableError: without a CUDA device.
        BenchmarkError: if a kernel disagrees with its reference; nothing of that case is timed.
    """
    if not torch.cuda.is_available():
        raise KernelUnavailableError("the benchmark needs a CUDA device: run it on a machine that has one")
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else []
    done = {(r["kernel"], r["layer"], r["B"], r["E"], r["bits"]) for r in rows}
    bandwidth = read_bandwidth()
    host = _host(bandwidth, commit or _commit())
    print(f"{host['gpu']}: read bandwidth {bandwidth / 1e9:.0f} GB/s, triton {host['triton']}, torch {host['torch']}")
    baselines = _Baselines(base={}, bmm={})
    started_s = time.monotonic()
    for case in cases:
        if case.key in done:
            continue
        if seconds is not None and time.monotonic() - started_s > seconds:
            print("stopped: run again to resume")
            break
        row, raw = _measure_case(case, bandwidth, baselines)
        rows.append(row)
        print(_line(row), flush=True)
        if path is not None:
            _write(path, rows, {**host, **row, **raw})
        torch.cuda.empty_cache()
    return rows


def _measure_case(case: BenchCase, bandwidth: float, baselines: _Baselines) -> tuple[Row, dict[str, list[float]]]:
    torch.manual_seed(0)
    arena = make_arena(case)
    moved = arena.expert_bytes * case.E
    if case.kernel != "fused_matmul":
        calls = delta_calls(case, arena)
    else:
        calls = _fused_calls(case, arena)
        # the base is read too, and activations and outputs are no longer small beside the weights
        moved += 2 * (case.N * case.K + case.B * (case.N + case.K))
    timing = time_calls(calls)
    base = _base_time(case, baselines)
    bmm = _bmm_time(case, baselines) if case.kernel != "fused_matmul" else None
    row: Row = {
        "kernel": case.kernel, "layer": case.layer, "N": case.N, "K": case.K, "B": case.B, "E": case.E,
        "bits": case.bits, "salient": case.salient, "time_us": timing.median_us, "time_us_low": timing.low_us,
        "time_us_high": timing.high_us, "bytes": moved,
        "fraction_of_read_bandwidth": moved / (timing.median_us * 1e-6) / bandwidth,
        "ratio_to_cublas_base": timing.median_us / base.median_us,
        "ratio_to_fp16_bmm": timing.median_us / bmm.median_us if bmm else None,
    }  # fmt: skip
    raw = {"repeats_us": list(timing.repeats_us), "cublas_base_us": list(base.repeats_us)}
    return row, {**raw, "fp16_bmm_us": list(bmm.repeats_us)} if bmm else raw


def delta_calls(
    case: BenchCase, arena: DeltaArena | SparseArena, config: DeltaMatmulConfig | None = None
) -> list[Callable[[], object]]:
    """Calls of one decode product on different buffers, after the result of one was compared.

    Raises:
        BenchmarkError: if the kernel disagrees with its reference.
    """
    slots = (torch.arange(case.B, device="cuda") % case.E).int()
    groups = group_rows(slots, width=tile_width(case.B, case.E))
    arenas = [arena, *(make_arena(case) for _ in range(_sets(arena.expert_bytes * case.E) - 1))]
    x = [torch.randn(case.B, case.K, device="cuda").bfloat16() for _ in arenas]
    y = [torch.zeros(case.B, case.N, device="cuda").bfloat16() for _ in arenas]

    def call(i: int) -> Callable[[], object]:
        if case.kernel == "delta_matmul":
            return lambda: delta_matmul(y[i], slice_activations(x[i], bits=case.bits), arenas[i], groups, config=config)
        sliced = slice_activations(x[i], bits=case.bits)
        return lambda: delta_matmul(y[i], sliced, arenas[i], groups, config=config)

    # a few rows are enough to compare, and every expert of them is a matrix for the reference
    rows = min(case.B, 3)
    call(0)()
    _compare(case, y[0][:rows], delta_matmul_ref(torch.zeros_like(y[0][:rows]), x[0][:rows], arena, slots[:rows]))
    return [call(i) for i in range(len(arenas))]


def _fused_calls(case: BenchCase, arena: DeltaArena | SparseArena) -> list[Callable[[], object]]:
    sets = _sets(arena.expert_bytes + 2 * case.N * case.K)
    arenas = [arena, *(make_arena(case) for _ in range(sets - 1))]
    weights = [(torch.randn(case.N, case.K, device="cuda") * 0.02).bfloat16() for _ in arenas]
    x = torch.randn(case.B, case.K, device="cuda").bfloat16()

    def call(i: int) -> Callable[[], torch.Tensor]:
        return lambda: fused_matmul(x, weights[i], arenas[i], 0)

    _compare(case, call(0)(), fused_matmul_ref(x, weights[0], arena, 0))
    return [call(i) for i in range(sets)]


def _compare(case: BenchCase, got: torch.Tensor, want: torch.Tensor) -> None:
    """Relative RMS error within bfloat16's rounding of the result and, for prefill, of the weight."""
    error = float((got.float() - want).norm() / want.norm())
    if not error < 5e-3:
        raise BenchmarkError(f"a kernel is timed only if its error is below 5e-3, got {error:.1e} for {case}")


def _base_time(case: BenchCase, baselines: _Baselines) -> Timing:
    key = (case.N, case.K, case.B)
    if key not in baselines.base:
        x = torch.randn(case.B, case.K, device="cuda").bfloat16()
        sets = range(_sets(2 * case.N * case.K))
        weights = [(torch.randn(case.N, case.K, device="cuda") * 0.02).bfloat16() for _ in sets]
        baselines.base[key] = time_calls([partial(torch.nn.functional.linear, x, w) for w in weights])
    return baselines.base[key]


def _bmm_time(case: BenchCase, baselines: _Baselines) -> Timing | None:
    """One whole FP16 matrix for every expert; `None` where they would not fit beside the rest."""
    key = (case.N, case.K, case.B, case.E)
    size = 2 * case.N * case.K * case.E
    if size > _BMM_LIMIT_BYTES:
        return None
    if key not in baselines.bmm:
        x = torch.randn(case.E, case.B // case.E, case.K, device="cuda").half()
        weights = [torch.randn(case.E, case.N, case.K, device="cuda", dtype=torch.half) for _ in range(_sets(size))]
        baselines.bmm[key] = time_calls([partial(torch.bmm, x, w.mT) for w in weights])
    return baselines.bmm[key]


def _sets(size: int) -> int:
    """Buffers to rotate over, so that what a call reads was evicted since it was last read."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return 1 if size > 2 * _L2_MULTIPLE * cache else min(_MAX_SETS, 2 + _L2_MULTIPLE * cache // size)


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _host(bandwidth: float, commit: str) -> dict[str, str | float]:
    return {
        "gpu": torch.cuda.get_device_name(0),
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "read_bandwidth_bytes_per_s": bandwidth,
        "matmul_rate_per_s": matmul_rate(),
    }


def _write(path: Path, rows: list[Row], raw: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    with path.with_suffix(".raw.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(raw) + "\n")


def _line(row: Row) -> str:
    bmm = row["ratio_to_fp16_bmm"]
    return (
        f"{row['kernel']:19} {row['layer']:8} B {row['B']:4} E {row['E']:3} {row['bits']} bits "
        f"{row['time_us']:8.1f} us  {row['fraction_of_read_bandwidth']:.2f} of read bandwidth  "
        f"{row['ratio_to_cublas_base']:.2f} x base  " + (f"{bmm:.2f} x bmm" if bmm is not None else "")
    )


if __name__ == "__main__":
    sys.exit(main())
