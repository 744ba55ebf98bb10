"""`h = act(gate) ⊙ up` of a gated feed-forward layer, `gate` and `up` side by side as a stacked product leaves them.

Both kinds are `g · sigmoid(s)`: `s = g` for silu, and `s = 2 √(2/π) (g + 0.044715 g³)` for the tanh form of gelu,
because `(1 + tanh z) / 2 = sigmoid(2z)`. As in norm.py, every program of a row finds the largest element for itself.
"""

from typing import Literal

import torch

from meswitch_kernels.activations import (
    CHUNK,
    SlicedActivations,
    empty_slices,
    magnitude,
    slice_arguments,
    store_slices,
)
from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.launch import check_available, early_launch, jit, supports_early_launch, tl, triton

__all__ = ["gated_activation"]

_KINDS = ("silu", "gelu_tanh")

# measured on an H100: docs/kernels/step.md
_BC, _BA, _WARPS = 2048, 16384, 32


@jit
def _gated(x, o_f, F, KIND: tl.constexpr, y):
    m_f = o_f < F
    b_g = tl.load(x + o_f, mask=m_f, other=0.0).to(tl.float32)
    b_u = tl.load(x + F + o_f, mask=m_f, other=0.0).to(tl.float32)
    b_s = b_g
    if KIND == "gelu_tanh":
        b_s = 1.5957691216057308 * (b_g + 0.044715 * b_g * b_g * b_g)
    # sigmoid without an exponential that overflows
    b_e = tl.exp(-tl.abs(b_s))
    return (b_g * (tl.where(b_s < 0, b_e, 1.0) / (1.0 + b_e)) * b_u).to(y.dtype.element_ty)


@jit
def _gated_kernel(
    y,  # [M, F]
    x,  # [M, 2F]
    slices,  # [M, 4, P, KB] int8
    sums,  # [M, chunks, 4] int32
    inverse,  # [M] float32
    stride_ym,
    stride_xm,
    F,
    KB,
    chunks,
    KIND: tl.constexpr,
    BITS: tl.constexpr,
    BA: tl.constexpr,
    BC: tl.constexpr,
    CHUNK: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    i_m = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1)
    x += i_m * stride_xm
    o_c = i_c * BC + tl.arange(0, BC)
    b_y = _gated(x, o_c, F, KIND, y)
    tl.store(y + i_m * stride_ym + o_c, b_y, mask=o_c < F)
    if BITS > 0:
        b_top = tl.zeros([BA], dtype=tl.int32)
        for f in range(0, F, BA):
            b_top = tl.maximum(b_top, magnitude(_gated(x, f + tl.arange(0, BA), F, KIND, y).to(tl.float32)))
        top = tl.max(b_top, axis=0)
        store_slices(b_y.to(tl.float32), top, slices, sums, inverse, i_m, i_c, chunks, KB, BITS, BC, CHUNK)


def gated_activation(
    gate_up: torch.Tensor, *, kind: Literal["silu", "gelu_tanh"], bits: float | None = None
) -> torch.Tensor | SlicedActivations:
    """`act(gate) * up`, `[M, F]` like `gate_up`, rounded once. Same contract as `reference.gated_activation_ref`.

    Args:
        gate_up: `[M, 2F]`, the gate first.
        kind: silu, or the tanh form of gelu.
        bits: code width of the arenas that read the result; the answer is then what `slice_activations` makes of it,
            to the last bit.

    Raises:
        UnsupportedShapeError: if shapes or dtypes do not fit together.
        KernelUnavailableError: without Triton or a CUDA device.
    """
    check_available(gate_up)
    if gate_up.ndim != 2 or gate_up.stride(1) != 1 or gate_up.shape[1] % 2 or not gate_up.shape[1]:
        raise UnsupportedShapeError(f"gate_up must be [M, 2F] with rows of neighbours, got {list(gate_up.shape)}")
    if gate_up.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise UnsupportedShapeError(f"gate_up must be float16, bfloat16 or float32, got {gate_up.dtype}")
    if kind not in _KINDS:
        raise UnsupportedShapeError(f"kind must be one of {_KINDS}, got {kind!r}")
    M, F = gate_up.shape[0], gate_up.shape[1] // 2
    y = torch.empty(M, F, dtype=gate_up.dtype, device=gate_up.device)
    sliced = None if bits is None else empty_slices(y, bits=bits)
    slices, sums, inverse, KB, chunks = slice_arguments(sliced, y)
    BC = CHUNK if sliced is None else min(_BC, triton.next_power_of_2(max(F, CHUNK)))
    if M:
        _gated_kernel[(M, triton.cdiv(F, BC))](
            y, gate_up, slices, sums, inverse, y.stride(0), gate_up.stride(0), F, KB, chunks,
            KIND=kind, BITS=bits or 0, BA=min(_BA, triton.next_power_of_2(F)), BC=BC, CHUNK=CHUNK,
            EARLY=supports_early_launch(y), enable_fp_fusion=True,
            num_warps=4 if sliced is None or F <= CHUNK else _WARPS, **early_launch(y),
        )  # fmt: skip
    return y if sliced is None else sliced
