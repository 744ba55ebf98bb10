"""The reference codec: the delta itself, in a floating-point type."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_cast, checked_delta
from meswitch.codecs.options import check_choice, options_of

__all__ = ["Dense"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """Stores `delta` `[N, K]` as it is; exact in float32, rounded to nearest otherwise.

    Attributes:
        dtype: `float32`, `float16` or `bfloat16`.
    """

    name: ClassVar[str] = "dense"
    gain_tensors: ClassVar[tuple[str, ...]] = ("delta",)

    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self.name, "dtype", self.dtype, _DTYPES)

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """`delta`: `[N, K]` of the chosen dtype."""
        return {"delta": TensorSpec((N, K), _DTYPES[self.dtype])}

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` in the chosen dtype; calibration is not used.

        Raises:
            ValueError: if the delta is not a finite matrix, or does not fit the dtype's range.
        """
        del input_square_sum
        cast = checked_cast(checked_delta(delta), _DTYPES[self.dtype])
        # a cast to the same dtype is the caller's own memory
        stored = cast.clone(memory_format=torch.contiguous_format)
        N, K = delta.shape
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors={"delta": stored})

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """The stored delta, `[N, K]` float32, in memory of its own."""
        check_tensors(self, compressed)
        return compressed.tensors["delta"].to(torch.float32, copy=True)
