"""What every codec asks of its inputs before it works on them."""

import math

import torch

from meswitch.codecs.base import Codec, CompressedDelta
from meswitch.errors import DeltaFormatError

__all__ = ["check_tensors", "checked_cast", "checked_delta", "checked_second_moment", "checked_square_sum"]


def checked_delta(delta: torch.Tensor) -> torch.Tensor:
    """`delta` as a float32 matrix, the same tensor where it is one already.

    Raises:
        ValueError: if it is not a floating-point matrix with at least one element, or not finite.
    """
    if delta.ndim != 2 or not delta.is_floating_point() or delta.numel() == 0:
        raise ValueError(
            f"a delta must be a non-empty floating-point matrix [N, K], got {list(delta.shape)} {delta.dtype}"
        )
    if not delta.is_meta:
        # the extremes carry any NaN or infinity, without a mask of the size of the delta
        low, high = (float(x) for x in delta.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            n, k = (int(i) for i in (~delta.isfinite()).nonzero()[0])
            raise ValueError(f"a delta must be finite, got {float(delta[n, k])} at row {n}, column {k}")
    return delta.to(torch.float32)


def checked_square_sum(input_square_sum: torch.Tensor, K: int) -> torch.Tensor:
    """`input_square_sum` as float64 `[K]`.

    Raises:
        ValueError: if it has another shape, or holds a negative or non-finite sum.
    """
    if tuple(input_square_sum.shape) != (K,):
        raise ValueError(f"input_square_sum must be [{K}], got {list(input_square_sum.shape)}")
    sums = input_square_sum.to(torch.float64)
    if not sums.is_meta and not bool(((sums >= 0) & sums.isfinite()).all()):
        bad = int((~((sums >= 0) & sums.isfinite())).nonzero()[0])
        raise ValueError(f"input_square_sum must be finite and at least 0, got {float(sums[bad])} at channel {bad}")
    return sums


def checked_second_moment(input_second_moment: torch.Tensor, K: int) -> torch.Tensor:
    """`input_second_moment` as float64 `[K, K]`.

    Raises:
        ValueError: if it has another shape, is not finite or not symmetric, or has a negative diagonal.
    """
    if tuple(input_second_moment.shape) != (K, K):
        raise ValueError(f"input_second_moment must be [{K}, {K}], got {list(input_second_moment.shape)}")
    moment = input_second_moment.to(torch.float64)
    if moment.is_meta:
        return moment
    if not bool(moment.isfinite().all()):
        raise ValueError("input_second_moment must be finite")
    lowest = float(moment.diagonal().min())
    if lowest < 0:
        raise ValueError(f"input_second_moment must have a diagonal of at least 0, got {lowest}")
    # sums in another order differ by rounding
    skew = float((moment - moment.T).abs().max())
    if skew > 1e-3 * float(moment.diagonal().max()):
        raise ValueError(f"input_second_moment must be symmetric, got a difference of {skew}")
    return moment


def checked_cast(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`values` rounded to `dtype`.

    Raises:
        ValueError: if a finite value becomes infinite.
    """
    cast = values.to(dtype)
    if not cast.is_meta and not bool(cast.isfinite().all()):
        limit, largest = torch.finfo(dtype).max, float(values.abs().max())
        raise ValueError(f"a value stored as {dtype} must be at most {limit} in magnitude, got {largest}")
    return cast


def check_tensors(codec: Codec, compressed: CompressedDelta) -> None:
    """Refuse tensors that are not the ones that the codec declares for this shape.

    Raises:
        DeltaFormatError: if a tensor is missing, not declared, or of another shape or dtype.
    """
    layout = codec.layout(*compressed.shape)
    if layout.keys() != compressed.tensors.keys():
        raise DeltaFormatError(
            f"codec {codec.name} stores the tensors {', '.join(sorted(layout))}, "
            f"got {', '.join(sorted(compressed.tensors)) or 'none'}"
        )
    for name, spec in layout.items():
        tensor = compressed.tensors[name]
        if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
            raise DeltaFormatError(
                f"codec {codec.name}: tensor {name} must be {list(spec.shape)} {spec.dtype}, "
                f"got {list(tensor.shape)} {tensor.dtype}"
            )
