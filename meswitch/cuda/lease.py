"""What a running request holds of its expert on the device."""

from collections.abc import Callable
from dataclasses import dataclass

from meswitch.cuda.whole_layout import WholeWeights

__all__ = ["CudaLease", "always"]


def always() -> bool:
    """True: there is nothing more to come."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaLease:
    """The weights of one expert, which stay until the pool is told otherwise.

    Attributes:
        weights: the base, or the whole model itself where whole models are swapped.
        slot: of the expert's delta; -1 where `weights` alone are the expert.
        vocabulary: rows of the expert's tables.
        wait: makes the current stream wait until a segment is in place; costs nothing once it is.
        refined: whether all bit planes are in place; true from the start for codecs that have one.
    """

    weights: WholeWeights
    slot: int
    vocabulary: int
    wait: Callable[[int], None]
    refined: Callable[[], bool] = always
