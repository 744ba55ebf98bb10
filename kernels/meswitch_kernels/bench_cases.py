"""What the benchmark measures: layers, batches, and data on the device for them.

B is the rows of a batch (tokens, for prefill), E the experts among them, N and K a layer's output and input dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.packing import words_per_row

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
    bits: int

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
    def key(self) -> tuple[str, str, int, int, int]:
        """What tells this case from the others."""
        return self.kernel, self.layer, self.B, self.E, self.bits


def grid(*, full: bool) -> Iterator[BenchCase]:
    """The cases: 2 bits, or with `full` also 1, 4 and 8."""
    for bits in (2, 1, 4, 8) if full else (2,):
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


def make_arena(case: BenchCase) -> DeltaArena:
    """E random experts of a layer on the device. Every code is as likely as any other."""
    N, K, E, S, bits = case.N, case.K, case.E, case.salient, case.bits
    groups = _GROUPS.get(case.layer, 1)
    words = (E, N, words_per_row(K, bits))
    index = torch.stack([torch.randperm(K, device="cuda")[:S].sort().values for _ in range(E * groups)]).int()
    return DeltaArena(
        codes=torch.randint(-(2**31), 2**31 - 1, words, dtype=torch.int32, device="cuda"),
        steps=torch.rand(E, N, device="cuda") * 2e-3,
        salient_index=index.view(E, groups, S) if groups > 1 else index,
        salient_values=(torch.randn(E, N, S, device="cuda") * 1e-2).half(),
        bits=bits,
        K=K,
    )
