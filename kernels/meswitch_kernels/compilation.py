"""Compiling every kernel for a GPU that need not be there: `python -m meswitch_kernels.compilation 80 90 100`.

Catches on a CPU what a kernel's first call would raise on that GPU; says nothing about results.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from meswitch_kernels.activation import _gated_kernel
from meswitch_kernels.activations import _slice_kernel
from meswitch_kernels.attention import _join_kernel, _split_kernel
from meswitch_kernels.delta_matmul import _delta_matmul_kernel, unpack_asm
from meswitch_kernels.embedding import _delta_rows_kernel
from meswitch_kernels.errors import KernelUnavailableError
from meswitch_kernels.fused_matmul import _fused_matmul_kernel
from meswitch_kernels.grouping import _group_kernel
from meswitch_kernels.hopper import GluonSource, gl
from meswitch_kernels.launch import interpreting, triton
from meswitch_kernels.levels import level_asm, warpgroup_asm
from meswitch_kernels.merge import _merge_kernel, _sparse_merge_kernel
from meswitch_kernels.norm import _rms_norm_kernel
from meswitch_kernels.rotary import _rotary_kernel
from meswitch_kernels.sampling import _best_kernel, _choose_kernel
from meswitch_kernels.sparse_matmul import _sparse_matmul_kernel, levels_asm, selectors_asm
from meswitch_kernels.warpgroup_matmul import _warpgroup_matmul_kernel

__all__ = ["compile_kernels", "main"]

_TYPES = {
    "x": "*bf16", "y": "*bf16", "out": "*bf16", "weight": "*bf16", "slices": "*i8", "sums": "*i32",
    "inverse": "*fp32", "steps": "*fp32", "index": "*i32", "values": "*fp16", "tile_slot": "*i32", "tile_rows": "*i32",
    "slots": "*i32", "slot": "*i32", "tokens": "*i64", "codes": "*i32", "q": "*bf16", "qkv": "*bf16", "keys": "*bf16",
    "logits": "*bf16", "base": "*fp32", "experts": "*fp32", "cos": "*fp32", "sin": "*fp32", "bias": "*fp32",
    "bias_experts": "*fp32", "q_norm": "*fp32", "q_norm_experts": "*fp32", "k_norm": "*fp32",
    "k_norm_experts": "*fp32", "positions": "*i64", "cache_rows": "*i32", "rows": "*i32", "lengths": "*i32",
    "parts": "*fp32", "weights": "*fp32", "best": "*fp32", "place": "*i32", "vocabulary": "*i32",
    "temperature": "*fp32", "seeds": "*i64", "eps": "fp32", "scale": "fp32",
}  # fmt: skip
"""Types by parameter name; every other run-time parameter is an int32."""


def compile_kernels(capability: int) -> Iterator[tuple[str, int]]:
    """Name and size in bytes of each kernel's binary for compute capability `capability` (80, 90, 100, ...).

    Raises:
        KernelUnavailableError: without Triton, or in its interpreter, which compiles nothing.
    """
    if triton is None or interpreting():
        raise KernelUnavailableError("compiling needs Triton, and TRITON_INTERPRET unset")
    early = capability >= 90
    for name, kernel, warps, types, constants in _variants(early):
        yield name, _compile(kernel, capability, warps, types, constants)
    if capability == 90 and GluonSource is not None:
        for name, kernel, warps, types, constants in _hopper_variants():
            yield name, _compile(kernel, capability, warps, types, constants)


def main(arguments: list[str]) -> int:
    """Exit code 0; prints a line a kernel."""
    for capability in arguments:
        for name, size in compile_kernels(int(capability)):
            print(f"sm_{capability} {name}: {size} bytes")
    return 0


def _variants(early: bool) -> Iterator[tuple[str, Any, int, Mapping[str, str], Mapping[str, Any]]]:
    tile: dict[str, Any]
    asm: dict[str, Any]
    yield "slice", _slice_kernel, 4, {}, {"BITS": 2, "BA": 4096, "BC": 1024, "EARLY": early}
    for name, bits in (("slice pairs", 0.5), ("slice groups", 0.75)):
        yield name, _slice_kernel, 4, {}, {"BITS": bits, "BA": 4096, "BC": 1024, "EARLY": early}
    yield "group", _group_kernel, 8, {}, {"BB": 16, "R": 4}
    shape = {"S": 8, "SP": 16}
    delta = {**shape, "CH": 4, "EVEN": True, "EARLY": early}
    for bits in (1, 2, 4, 8):
        tile = {"R": 2, "BITS": bits, "BM": 64, "BKB": 128, "SK": 1, "ASM": unpack_asm(bits)}
        yield f"delta_matmul {bits} bits", _delta_matmul_kernel, 2, {"codes": "*i8"}, {**delta, **tile}
    tile = {"R": 4, "BITS": 2, "BM": 16, "BKB": 64, "SK": 4, "ASM": None}
    yield "delta_matmul split", _delta_matmul_kernel, 4, {"codes": "*i8"}, {**delta, **tile, "EVEN": False}
    for group, codes in ((4, "*i16"), (8, "*i8")):
        tile = {"R": 2, "GROUP": group, "KEEP": 1, "BM": 64, "BKB": 64, "SK": 1, "EVEN": True, "EARLY": early}
        asm = {"ASM": (selectors_asm(group), *levels_asm())}
        types = {"codes": codes, "signs": "*i8"}
        yield f"sparse_matmul groups of {group}", _sparse_matmul_kernel, 2, types, {**shape, **tile, **asm}
    tile = {**tile, **asm, "KEEP": 2, "BM": 16, "SK": 4, "EVEN": False}
    yield "sparse_matmul split", _sparse_matmul_kernel, 4, types, {**shape, **tile}
    tile = {**tile, "KEEP": 1, "SK": 1, "ASM": None}
    yield "sparse_matmul plain", _sparse_matmul_kernel, 1, {"signs": "*i16"}, {**shape, **tile}
    types = {"codes": "*i16", "x_tiles": "tensordesc<bf16[64,64]>", "w_tiles": "tensordesc<bf16[128,64]>"}
    for bits in (2, 8):
        tile = {"BITS": bits, "BM": 64, "BN": 128, "BK": 64, "GROUP": 8, "EVEN": True, "PRECISION": None}
        asm = {"ASM": level_asm(bits, torch.bfloat16)}
        yield f"fused_matmul {bits} bits", _fused_matmul_kernel, 4, types, {**shape, **tile, **asm}
    yield "delta_rows", _delta_rows_kernel, 4, {}, {"S": 8, "BITS": 4, "BK": 1024}
    yield "merge", _merge_kernel, 4, {}, {"S": 8, "BITS": 2, "BN": 16, "BK": 256}
    merge = {"S": 8, "GROUP": 4, "KEEP": 1, "BN": 16, "BK": 256}
    yield "sparse merge", _sparse_merge_kernel, 4, {"signs": "*i16"}, merge
    yield from _step_variants(early)


def _hopper_variants() -> Iterator[tuple[str, Any, int, Mapping[str, str], Mapping[str, Any]]]:
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    for bits, BM, stages, parts in ((1, 128, 5, 1), (2, 256, 4, 1), (4, 16, 8, 4)):
        shapes = {"y_tiles": [min(BM, 64), 128], "x_tiles": [BM, 64], "w_tiles": [128, 64]}
        types = {name: f"tensordesc<bf16{shape},{layout!r}>".replace(", ", ",", 1) for name, shape in shapes.items()}
        asm, multiply_add = warpgroup_asm(bits, torch.bfloat16)
        tile = {"BITS": bits, "BM": BM, "BN": 128, "STAGES": stages, "PARTS": parts, "GROUP": 8, "S": 8}
        constants = {**tile, "ASM": asm, "FMA": multiply_add}
        yield f"warpgroup_matmul {bits} bits", _warpgroup_matmul_kernel, 8, {**types, "sums": "*fp32"}, constants


def _step_variants(early: bool) -> Iterator[tuple[str, Any, int, Mapping[str, str], Mapping[str, Any]]]:
    """What a decode step needs beside its products."""
    chunk = {"CHUNK": 1024, "BITS": 2, "EARLY": early}
    yield "rms_norm", _rms_norm_kernel, 8, {}, {**chunk, "BC": 1024, "BA": 4096, "EXPERTS": True}
    yield "gated_activation", _gated_kernel, 32, {}, {**chunk, "BC": 2048, "BA": 16384, "KIND": "gelu_tanh"}
    heads = {"H": 32, "D": 128, "EARLY": early}
    rotary = {"G": 8, "BD": 64, "BIAS": True, "NORM": True, "EXPERTS": True}
    yield "rotary", _rotary_kernel, 1, {"values": "*bf16"}, {**heads, **rotary}
    split = {"SHARED": 4, "SPLITS": 8, "SPAN": 64, "BH": 16, "BT": 64, "PRECISION": None}
    yield "attention", _split_kernel, 4, {"values": "*bf16"}, {**heads, **split}
    join = {"SPLITS": 8, "SPAN": 64, "BH": 32, "BT": 64}
    yield "attention join", _join_kernel, 16, {}, {**heads, **chunk, **join}
    yield "sampling", _best_kernel, 8, {}, {"BV": 512, "EARLY": early}
    yield "sampling join", _choose_kernel, 1, {"parts": "i32"}, {"BP": 16, "EARLY": early}


def _compile(kernel: Any, capability: int, warps: int, types: Mapping[str, str], constants: Mapping[str, Any]) -> int:
    names = kernel.arg_names
    known = {**_TYPES, **types}
    signature = {name: "constexpr" if name in constants else known.get(name, "i32") for name in names}
    # pointers and strides of real tensors are multiples of 16; vector loads depend on it
    aligned = [
        n for n in names if signature[n].startswith("*") or n.startswith("stride_") or n in ("KB", "KH", "UNITS", "W")
    ]
    source = (GluonSource if kernel.is_gluon() else triton.compiler.ASTSource)(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return len(
        triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": True}).asm["cubin"]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
