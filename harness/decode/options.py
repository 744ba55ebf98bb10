"""What a user asks of a measurement of decode steps."""

from dataclasses import dataclass
from typing import Literal

from harness.decode.case import DecodeCase
from harness.errors import UsageError
from meswitch.config import SyntheticConfig

__all__ = ["DecodeOptions"]

LEAST_REPEATS, LEAST_REPLAYS = 3, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """The measurement, resolved.

    Attributes:
        family: a shape's name, or the path of a Hugging Face config.
        cases: what to measure.
        synthetic: codecs of the experts, and the seed of everything random.
        dtype: of weights, activations, keys and values.
        repeats: times that each case is measured; replays: steps of each.
        index: of the GPU.
    """

    family: str
    cases: tuple[DecodeCase, ...]
    synthetic: SyntheticConfig
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    repeats: int = 9
    replays: int = 20
    index: int = 0

    def __post_init__(self) -> None:
        if self.repeats < LEAST_REPEATS or self.replays < LEAST_REPLAYS:
            raise UsageError(
                f"--repeats must be at least {LEAST_REPEATS} and --replays at least {LEAST_REPLAYS}, "
                f"got {self.repeats} and {self.replays}"
            )
        if self.dtype not in ("bfloat16", "float16"):
            raise UsageError(f"--dtype must be bfloat16 or float16, got {self.dtype!r}")
        if (shortest := min(case.context for case in self.cases)) <= self.replays:
            raise UsageError(f"--context must be longer than --replays, {self.replays}, got {shortest}")

    @property
    def max_rows(self) -> int:
        """Rows of the largest case."""
        return max(case.B for case in self.cases)

    @property
    def experts(self) -> int:
        """Experts of the case with most of them."""
        return max(case.E for case in self.cases)

    @property
    def cache_tokens(self) -> int:
        """Room for each row's keys and values: its context, and what the measured steps add."""
        return max(case.context for case in self.cases) + self.replays
