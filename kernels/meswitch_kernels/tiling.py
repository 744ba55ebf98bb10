"""How the two products are cut into programs: what tuning chooses."""

from dataclasses import dataclass

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
    """How the product is cut into programs.

    Attributes:
        BM, BN: rows of activations and output channels of a program.
        BK: elements along K at a time, a multiple of 64.
        warps, stages: of a program.
        GROUP: programs along N that run side by side, so that W is found in L2.
        merge: write `W + D_hat` out and leave the product to the vendor's library; pays for very many rows.
    """

    BM: int = 128
    BN: int = 128
    BK: int = 64
    warps: int = 4
    stages: int = 3
    GROUP: int = 8
    merge: bool = False
