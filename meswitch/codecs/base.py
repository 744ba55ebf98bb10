"""What every delta codec is: a pair of pure functions over one weight delta, and its size before any work.

N is the output dimension, K the input dimension, of a linear weight `[N, K]` in Hugging Face's order.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Protocol, TypeGuard

import torch

__all__ = ["Codec", "CompressedDelta", "OptionValue", "SecondMomentCodec", "TensorSpec", "takes_second_moment"]

OptionValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of one stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * self.dtype.itemsize

    def empty(self, device: torch.device) -> torch.Tensor:
        """An uninitialised tensor of this shape and dtype on `device`."""
        return torch.empty(self.shape, dtype=self.dtype, device=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedDelta:
    """One weight delta, described by a codec.

    Attributes:
        codec: the codec's registered name.
        options: the codec's options, as in its spec string; enough to decompress.
        shape: `(N, K)` of the delta.
        tensors: the stored tensors by their local name, as the codec's `layout` declares them.
    """

    codec: str
    options: Mapping[str, OptionValue]
    shape: tuple[int, int]
    tensors: Mapping[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors: codes, steps, indices, values and padding."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


class Codec(Protocol):
    """A codec with its options fixed. Registered by name in `meswitch.codecs`.

    Both functions are pure: inputs are never modified, and the result depends on nothing else.
    """

    name: ClassVar[str]

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included, as they are written into a manifest."""

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """The stored tensors of an `[N, K]` delta by local name: its exact size, known without weights."""

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` `[N, K]` float32, described by this codec, on the same device.

        Args:
            delta: expert minus base.
            input_square_sum: `Σ x_k²` over calibration tokens, `[K]` float32; `None` without calibration.
        """

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """The described delta, `[N, K]` float32, on the tensors' device."""


class SecondMomentCodec(Codec, Protocol):
    """A codec whose `compress` can also use how the inputs of a linear vary together."""

    def compress(
        self,
        delta: torch.Tensor,
        *,
        input_square_sum: torch.Tensor | None = None,
        input_second_moment: torch.Tensor | None = None,
    ) -> CompressedDelta:
        """`delta` `[N, K]` float32, described by this codec, on the same device.

        Args:
            delta: expert minus base.
            input_square_sum: `Σ x_k²` over calibration tokens, `[K]` float32; `None` without calibration.
            input_second_moment: `Σ x xᵀ` over calibration tokens, `[K, K]` float32; `None` without calibration.
        """


def takes_second_moment(codec: Codec) -> TypeGuard[SecondMomentCodec]:
    """Whether `codec` is one whose `compress` takes `input_second_moment`."""
    return "input_second_moment" in inspect.signature(codec.compress).parameters
