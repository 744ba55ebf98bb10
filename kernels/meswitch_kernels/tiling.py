"""How the two products are cut into programs: what tuning chooses."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["DeltaMatmulConfig", "FusedMatmulConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaMatmulConfig:
    """How the product is cut into programs.

    Attributes:
        BM: output channels of a program.
        BKB: bytes of packed codes of a row that a program reads at a time.
        SK: parts of K that the warps of a program sum apart; 1, or equal to `warps`.
        warps, stages: of a program.
        launch_early: launch while the kernel ahead drains, which saves about a microsecond, or costs one.
    """

    BM: int = 64
    BKB: int = 128
    SK: int = 1
    warps: int = 2
    stages: int = 3
    launch_early: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMatmulConfig:
    """How the product is computed, and cut into programs.

    Attributes:
        method: "registers" forms `W + D_hat` tile by tile in a Triton kernel, "warpgroups" does so on Hopper in the
            registers that the tensor cores read; "merged" writes it out and leaves the product to the vendor's library.
        BM, BN: rows of activations and output channels of a program.
        BK: elements along K at a time, a multiple of 64; with warpgroups 64.
        warps: of a program; with warpgroups, one for 16 output channels.
        stages: tiles of W and x in flight.
        GROUP: programs along N that run side by side, so that W is found in L2.
        parts: of K, whose sums are added at the end: more programs for few tiles. Warpgroups only.
    """

    method: Literal["registers", "warpgroups", "merged"] = "registers"
    BM: int = 128
    BN: int = 128
    BK: int = 64
    warps: int = 4
    stages: int = 3
    GROUP: int = 8
    parts: int = 1
