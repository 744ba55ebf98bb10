"""An arm whose codec is chosen for each linear within some bits: what its name says. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from meswitch.errors import CodecOptionError

__all__ = ["CANDIDATES", "WAYS", "Allocated", "Knapsack", "Way", "parse_allocated"]

Knapsack = Literal["measured", "weighted", "plain"]
Way = Literal["search", Knapsack]
WAYS: tuple[Way, ...] = ("search", *get_args(Knapsack))

CANDIDATES = (
    "sparse-sign:group=16",
    "sparse-sign:group=16,channels=8",
    "sparse-sign:group=8",
    "sparse-sign:group=8,channels=8",
    "sparse-sign:group=4",
    "sparse-sign:group=4,channels=8",
    "lowrank:bits=0.5,precision=mixed",
    "lowrank:bits=0.75,precision=mixed",
    "lowrank:bits=1,precision=mixed",
    "rtn:bits=1",
    "sparse-sign:group=8,keep=2",
    "sparse-sign:group=4,keep=2",
    "rtn:bits=2",
    "salient:bits=2,channels=8,step=unbiased",
    "lowrank:bits=2.25,precision=mixed",
    "rtn:bits=4",
)
"""The codecs that a linear may get, all with unbiased steps where they have any."""


@dataclass(frozen=True, slots=True)
class Allocated:
    """A budget, and how it is spent.

    Attributes:
        bits: that a weight of the linears may take on average, everything counted.
        by: a knapsack over errors, `plain` of weights, `weighted` of outputs, or over KL `measured` linear by linear;
            or `search` by KL, from the fittest of these and of one codec for all.
    """

    name: ClassVar[str] = "allocated"

    bits: float = 0.8
    by: Way = "search"

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise CodecOptionError(f"codec {self.name}: by must be one of {', '.join(WAYS)}, got {self.by}")
        if not 0 < self.bits < float("inf"):
            raise CodecOptionError(f"codec {self.name}: bits must be positive, got {self.bits:g}")

    @property
    def spec(self) -> str:
        """Its name among the arms."""
        return f"{self.name}:bits={self.bits:g},by={self.by}"

    @property
    def options(self) -> dict[str, str | int | float | bool]:
        """As those of a codec."""
        return {"bits": self.bits, "by": self.by}


def parse_allocated(spec: str) -> Allocated | None:
    """What `allocated:bits=0.8,by=search` asks for; `None` of a codec's spec.

    Raises:
        CodecOptionError: an option is unknown or has no such value.
    """
    # torch takes seconds to import: never for what is known by default
    from meswitch.codecs.options import parse_spec, typed_options

    name, options = parse_spec(spec)
    return Allocated(**typed_options(Allocated, options)) if name == Allocated.name else None  # type: ignore[arg-type]
