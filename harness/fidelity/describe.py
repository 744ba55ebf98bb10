"""An expert's linear weights as a codec describes them.

The described delta is written as D̂; it is float32, `[N, K]`, by parameter name.
"""

from collections.abc import Mapping

import torch

from harness.fidelity.moments import Moments
from harness.fidelity.stacked import Stacks
from harness.fidelity.subject import Subject
from meswitch.allocation.sensitivity import codec_bytes
from meswitch.codecs import Codec, decompress, takes_second_moment

__all__ = [
    "describe",
    "describe_one",
    "size_of",
    "sizes_of",
    "stacks_of",
]

Described = Mapping[str, torch.Tensor]
SIXTEEN_BITS = 2


def describe_one(codec: Codec, delta: torch.Tensor, second: torch.Tensor | None, sums: torch.Tensor) -> torch.Tensor:
    """D̂ of one matrix."""
    sums = sums.to(delta.device)
    if takes_second_moment(codec):
        moment = None if second is None else second.to(delta.device)
        return decompress(codec.compress(delta, input_square_sum=sums, input_second_moment=moment))
    return decompress(codec.compress(delta, input_square_sum=sums))


def describe(codec: Codec, stacks: Stacks) -> dict[str, torch.Tensor]:
    """D̂ of all linears, on the deltas' device; products are rounded to no less than float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        found, moments = stacks.describe(codec), stacks.moments
        if found is not None:
            return found
        return {
            name: describe_one(codec, delta, moments.second[name], moments.square_sums[name])
            for name, delta in stacks.deltas.items()
        }
    finally:
        torch.set_float32_matmul_precision(before)


def stacks_of(subject: Subject, moments: Moments, *, half: bool = False) -> Stacks:
    """The deltas of a subject's linears."""
    expert = subject.trained(half)
    return Stacks({name: expert[name] - subject.base[name] for name in subject.linears}, moments)


def size_of(codec: Codec, subject: Subject) -> tuple[float, int]:
    """`sizes_of` with one codec for all linears."""
    return sizes_of(dict.fromkeys(subject.linears, codec), subject)


def sizes_of(codecs: Mapping[str, Codec], subject: Subject) -> tuple[float, int]:
    """Bits per linear weight, and bytes of the whole expert with everything that is not linear in 16 bits.

    Args:
        codecs: of every linear.
    """
    linears, weights, others = 0, 0, 0
    for name, tensor in subject.base.items():
        if name in codecs:
            linears += codec_bytes(codecs[name], tensor.shape)
            weights += tensor.numel()
        else:
            others += SIXTEEN_BITS * tensor.numel()
    return 8 * linears / weights, linears + others
