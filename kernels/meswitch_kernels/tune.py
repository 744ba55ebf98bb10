"""`python -m meswitch_kernels.tune --bits 0.5 --tile 64,128,2,3 ...`: a decode product with each of some tiles.

The tile that is chosen now comes first, as `chosen`. Each result is compared with the reference before it is timed, and
the tiles are timed in turn, twice. Nothing is written: what is found goes into `tuned.json` (1 to 8 bits) or into
`sparse_config` (0.5 and 0.75 bits) by hand.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import product

import torch

from meswitch_kernels.bench import delta_calls
from meswitch_kernels.bench_cases import LAYERS, BenchCase, make_arena
from meswitch_kernels.errors import KernelError, KernelUnavailableError, UnsupportedShapeError
from meswitch_kernels.launch import triton
from meswitch_kernels.packing import BITS
from meswitch_kernels.sparse_packing import PLANE_BITS
from meswitch_kernels.tiling import DeltaMatmulConfig
from meswitch_kernels.timing import Timing, read_bandwidth, time_calls

__all__ = ["main", "parse_tile", "tune"]

_ROUNDS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 if something was timed, 1 if something refused. Prints one line a tile."""
    parser = argparse.ArgumentParser(prog="python -m meswitch_kernels.tune", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bits", type=float, required=True, help="code width: 0.5, 0.75, 1, 2, 4 or 8")
    parser.add_argument("--layer", action="append", choices=tuple(LAYERS), help="default: gate; may be repeated")
    parser.add_argument("--rows", type=int, default=16, metavar="B", help="rows of the batch (default 16)")
    parser.add_argument("--experts", type=int, default=16, metavar="E", help="experts among them (default 16)")
    parser.add_argument("--tile", action="append", metavar="BM,BKB,WARPS,STAGES[,SK]", help="may be repeated")
    options = parser.parse_args(arguments)
    try:
        configs = [parse_tile(text) for text in options.tile or ()]
        for layer in options.layer or ("gate",):
            tune(_case(layer, options.rows, options.experts, options.bits), configs)
    except KernelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse_tile(text: str) -> DeltaMatmulConfig:
    """The tile that `text` names, as `64,128,2,3` or, with parts of K, `16,64,4,3,4`.

    Raises:
        UnsupportedShapeError: for anything else.
    """
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if len(numbers) not in (4, 5) or min(numbers) < 1:
        raise UnsupportedShapeError(f"a tile must be BM,BKB,WARPS,STAGES[,SK], as 64,128,2,3, got {text!r}")
    BM, BKB, warps, stages, *parts = numbers
    return DeltaMatmulConfig(BM=BM, BKB=BKB, warps=warps, stages=stages, SK=parts[0] if parts else 1)


def tune(case: BenchCase, configs: Sequence[DeltaMatmulConfig]) -> dict[DeltaMatmulConfig | None, Timing]:
    """Times of `case` by tile, `None` being the tile that is chosen now; a tile that the GPU has no room for has none.

    Raises:
        KernelUnavailableError: without a CUDA device.
        UnsupportedShapeError: if a tile does not divide the layer.
        BenchmarkError: if a result is wrong.
    """
    if not torch.cuda.is_available():
        raise KernelUnavailableError("tuning needs a CUDA device: run it on a machine that has one")
    bandwidth = read_bandwidth()
    repeats: dict[DeltaMatmulConfig | None, tuple[float, ...]] = {}
    refused: set[DeltaMatmulConfig | None] = set()
    for _, config in product(range(_ROUNDS), (None, *configs)):
        if config in refused:
            continue
        torch.manual_seed(0)
        arena = make_arena(case)
        try:
            measured = time_calls(delta_calls(case, arena, config)).repeats_us
        except triton.OutOfResources as error:
            refused.add(config)
            print(f"{_name(config):20} {error}", flush=True)
            continue
        repeats[config] = repeats.get(config, ()) + measured
    timings = {config: Timing(repeats_us=measured) for config, measured in repeats.items()}
    moved = make_arena(case).expert_bytes * case.E
    for config, timing in sorted(timings.items(), key=lambda item: item[1].median_us):
        share = moved / (timing.median_us * 1e-6) / bandwidth
        print(
            f"{case.layer:8} B {case.B:3} E {case.E:3} {case.bits} bits  {_name(config):16} {timing.median_us:7.1f} us "
            f"[{timing.low_us:.1f}, {timing.high_us:.1f}]  {share:.2f} of read bandwidth",
            flush=True,
        )
    return timings


def _case(layer: str, rows: int, experts: int, bits: float) -> BenchCase:
    if bits not in (*PLANE_BITS.values(), *BITS):
        raise UnsupportedShapeError(f"bits must be 0.5, 0.75, 1, 2, 4 or 8, got {bits}")
    if not 1 <= experts <= rows or rows % experts:
        raise UnsupportedShapeError(f"rows must be a multiple of experts, got {rows} and {experts}")
    # a kernel takes whole bits as an integer
    whole = int(bits) if bits >= 1 else bits
    return BenchCase(kernel="delta_matmul_sliced", layer=layer, B=rows, E=experts, bits=whole)


def _name(config: DeltaMatmulConfig | None) -> str:
    if config is None:
        return "chosen"
    return f"{config.BM},{config.BKB},{config.warps},{config.stages}" + (f",{config.SK}" if config.SK > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
