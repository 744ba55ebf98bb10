"""What a user asks of a measurement of prompts."""

from dataclasses import dataclass
from typing import Literal

from harness.errors import UsageError
from harness.prefill.case import PrefillCase
from meswitch.config import DeviceConfig, SyntheticConfig

__all__ = ["PrefillOptions"]

LEAST_REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillOptions:
    """The measurement, resolved.

    Attributes:
        family: a shape's name, or the path of a Hugging Face config.
        cases: what to measure.
        synthetic: codecs of the expert, and the seed of everything random.
        dtype: of weights, activations, keys and values.
        repeats: times that each case is measured.
        chunk_tokens: of longer prompts, computed one chunk after the other, as an engine does.
        index: of the GPU.
    """

    family: str
    cases: tuple[PrefillCase, ...]
    synthetic: SyntheticConfig
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    repeats: int = 9
    chunk_tokens: int = DeviceConfig().prefill_chunk_tokens
    index: int = 0

    def __post_init__(self) -> None:
        if self.repeats < LEAST_REPEATS:
            raise UsageError(f"--repeats must be at least {LEAST_REPEATS}, got {self.repeats}")
        if self.dtype not in ("bfloat16", "float16"):
            raise UsageError(f"--dtype must be bfloat16 or float16, got {self.dtype!r}")

    @property
    def longest_chunk(self) -> int:
        """The most tokens of any case that are computed together."""
        return min(self.chunk_tokens, max(case.tokens for case in self.cases))

    @property
    def row_tokens(self) -> int:
        """Positions of the longest case, those before its prompt included."""
        return max(case.start + case.tokens for case in self.cases)

    def chunks(self, tokens: int) -> tuple[int, ...]:
        """The lengths that a prompt is computed in."""
        whole, rest = divmod(tokens, self.longest_chunk)
        return (self.longest_chunk,) * whole + ((rest,) if rest else ())
