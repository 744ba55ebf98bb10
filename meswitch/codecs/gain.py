"""One factor for a whole described delta: how much of an effect is length, and how much direction."""

import math
from typing import Protocol, runtime_checkable

import torch

from meswitch.codecs.base import CompressedDelta
from meswitch.codecs.checks import checked_cast
from meswitch.codecs.registry import get_codec
from meswitch.errors import CodecOptionError

__all__ = ["Scalable", "scale_delta"]


@runtime_checkable
class Scalable(Protocol):
    """A codec whose deltas can be scaled after they were compressed."""

    @property
    def gain_tensors(self) -> tuple[str, ...]:
        """Stored tensors, by local name, of which those that are there multiply `D̂` when they are all multiplied."""


def scale_delta(compressed: CompressedDelta, gain: float) -> CompressedDelta:
    """The same delta with `D̂` multiplied by `gain`: same codec, options, shapes and bytes.

    Exact up to the rounding of what is stored: to float32 for steps, to float16 for values and factors. Tensors that do
    not change are shared.

    Raises:
        ValueError: if `gain` is not finite and above 0, or a scaled value does not fit its type.
        CodecOptionError: if the codec does not say how its deltas are scaled.
    """
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"gain must be finite and above 0, got {gain}")
    codec = get_codec(compressed.codec, compressed.options)
    if not isinstance(codec, Scalable):
        raise CodecOptionError(f"codec {compressed.codec} must name its gain_tensors for a delta to be scaled")
    scaled = {
        name: checked_cast(tensor.to(torch.float32) * gain, tensor.dtype)
        for name, tensor in compressed.tensors.items()
        if name in codec.gain_tensors
    }
    return CompressedDelta(
        codec=compressed.codec,
        options=compressed.options,
        shape=compressed.shape,
        tensors={**compressed.tensors, **scaled},
    )
