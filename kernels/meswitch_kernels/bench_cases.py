"""What the benchmark measures: layers, batches, and data on the device for them.

B is the rows of a batch (tokens, for prefill), E the experts among them, N and K a layer's output and input dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.packing import words_per_row
from meswitch_kernels.sparse_arena import SparseArena
from meswitch_kernels.sparse_packing import PLANE_BITS, plane_shapes

__all__ = ["LAYERS", "BenchCase", "grid", "make_arena"]

LAYERS = {
    "q": (4096, 4096),
    "k": (1024, 4096),
    "o": (4096, 4096),
    "gate": (14336, 4096),
    "down": (4096, 14336),
    "qkv": (6144, 4096),
    "gate_up": (28672, 4096),
}
"""`(N, K)` of a decoder layer of Mistral-7B; v is like k and up like gate, and the last two are stacked layers."""

_GROUPS = {"qkv": 6, "gate_up": 2}
_SALIENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCase:
    """One row of the table, before it is measured.

    `delta_matmul` includes `slice_activations`; `delta_matmul_sliced` is the product alone, as for the second and
    later layers that read the same activations.
    """

    kernel: str
    layer: str
    B: int
    E: int
    bits: float

    @property
    def N(self) -> int:  # noqa: N802 - a dimension
        """The output dimension."""
        return LAYERS[self.layer][0]

    @property
    def K(self) -> int:  # noqa: N802 - a dimension
        """The input dimension."""
        return LAYERS[self.layer][1]

    @property
    def salient(self) -> int:
        """Salient channels of each expert."""
        return _SALIENT

    @property
    def key(self) -> tuple[str, str, int, int, float]:
        """What tells this case from the others."""
        return self.kernel, self.layer, self.B, self.E, self.bits


def grid(*, full: bool) -> Iterator[BenchCase]:
    """The cases: 2 bits, or with `full` also 1, 4 and 8, and signed positions: 0.75 and 0.5."""
    for bits in (2, 1, 4, 8, *PLANE_BITS.values()) if full else (2,):
        # first what targets speak of, then a decoder layer's four products on the ends of prompts
        for layer, B in (
            *product(("q", "gate", "down"), (512, 2048)),
            *product(("qkv", "o", "gate_up", "down"), (64, 256)),
        ):
            yield BenchCase(kernel="fused_matmul", layer=layer, B=B, E=1, bits=bits)
        for layer in _GROUPS:
            yield BenchCase(kernel="fused_matmul", layer=layer, B=512, E=1, bits=bits)
        # what is asked about most comes first, so that a run cut short has it
        for B, layer in product((16, 1, 4, 64), LAYERS):
            for E in sorted({1, max(1, B // 4), B}):
                yield BenchCase(kernel="delta_matmul", layer=layer, B=B, E=E, bits=bits)
                if E == B:
                    yield BenchCase(kernel="delta_matmul_sliced", layer=layer, B=B, E=E, bits=bits)


def make_arena(case: BenchCase, *, device: str = "cuda") -> DeltaArena | SparseArena:
    """E random experts of a layer on the device. Every code is as likely as any other."""
    N, K, E, S = case.N, case.K, case.E, case.salient
    groups = _GROUPS.get(case.layer, 1)
    index = torch.stack([torch.randperm(K, device=device)[:S].sort().values for _ in range(E * groups)]).int()
    index = index.view(E, groups, S) if groups > 1 else index
    steps = torch.rand(E, N, device=device) * 2e-3
    values = (torch.randn(E, N, S, device=device) * 1e-2).half()
    for group, bits in PLANE_BITS.items():
        if bits == case.bits:
            (units, dtype), (sign_units, sign_dtype) = plane_shapes(K, group)
            codes, signs = _random((E, N, units), dtype, device), _random((E, N, sign_units), sign_dtype, device)
            return SparseArena(
                codes=codes, signs=signs, steps=steps, salient_index=index, salient_values=values, group=group, K=K
            )
    words = _random((E, N, words_per_row(K, int(case.bits))), torch.int32, device)
    return DeltaArena(codes=words, steps=steps, salient_index=index, salient_values=values, bits=int(case.bits), K=K)


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max, shape, dtype=dtype, device=device)
