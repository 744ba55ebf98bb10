"""The compressed deltas of one layer for every expert slot, stacked so that a kernel can index them by slot.

E is the number of slots, N the output and K the input dimension, S the salient channels, W the words of a row.
"""

from dataclasses import dataclass, fields

import torch

from meswitch_kernels.errors import UnsupportedShapeError
from meswitch_kernels.packing import BITS, words_per_row

__all__ = ["MAX_K", "DeltaArena", "ExpertArena", "check_part", "level_offset", "slot_tensor"]

MAX_K = 32768
"""Longest row: twice a 32-bit sum of 8-bit products must fit."""

SLOT_ALIGNMENT_BYTES = 256
"""Where the parts of slots that lie apart begin: multiples of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertArena:
    """What the arenas of all kinds of codes have beside the codes: steps, and extra terms on a few columns.

    What belongs to one slot is contiguous. Slots may lie apart, as where all tensors are views of one image of bytes a
    slot; then they begin at multiples of 256 bytes, so that loads stay as wide as they are.

    Attributes:
        steps: quantisation step of each output channel, `[E, N]` float32.
        salient_index: input channels that get an extra term, `[E, S]` int32, or `[E, G, S]` where G layers of the
            same input and N / G rows each are stacked along N; S may be 0.
        salient_values: that term, `[E, N, S]` float16.
        K: input dimension; codes beyond it are padding.
    """

    steps: torch.Tensor
    salient_index: torch.Tensor
    salient_values: torch.Tensor
    K: int

    def __post_init__(self) -> None:
        if not 0 < self.K <= MAX_K:
            raise UnsupportedShapeError(f"K must be from 1 to {MAX_K}, got {self.K}")
        E, N, S = self.slots, self.N, self.salient
        check_part("steps", self.steps, (E, N), torch.float32)
        groups = self.salient_index.shape[1:-1]
        check_part("salient_index", self.salient_index, (E, *groups, S), torch.int32)
        if len(groups) > 1 or (groups and N % groups[0]):
            raise UnsupportedShapeError(f"salient groups must divide N = {N}, got {list(groups)}")
        check_part("salient_values", self.salient_values, (E, N, S), torch.float16)

    @property
    def slots(self) -> int:
        """E, the number of expert slots."""
        return self.steps.shape[0]

    @property
    def N(self) -> int:  # noqa: N802 - a dimension
        """The output dimension."""
        return self.steps.shape[1]

    @property
    def salient(self) -> int:
        """S, the salient channels of each expert."""
        return self.salient_index.shape[-1]

    @property
    def group_rows(self) -> int:
        """Rows that share one list of salient channels: N / G."""
        return self.N if self.salient_index.ndim == 2 else self.N // self.salient_index.shape[1]

    @property
    def expert_bytes(self) -> int:
        """Bytes of one slot: codes, steps, indices and values, padding included."""
        tensors = (getattr(self, field.name) for field in fields(self))
        return sum(t[:1].numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaArena(ExpertArena):
    """Weight deltas `D_hat[e] = steps[e][:, None] * levels(codes[e])`, plus `salient_values[e]` on a few columns.

    Attributes:
        codes: packed codes, `[E, N, W]` int32, `packing.LAYOUT`.
        bits: code width.
    """

    codes: torch.Tensor
    bits: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UnsupportedShapeError(f"bits must be one of {BITS}, got {self.bits}")
        # dataclasses with slots are made anew, and `super()` without arguments would name the old one
        ExpertArena.__post_init__(self)
        check_part("codes", self.codes, (self.slots, self.N, words_per_row(self.K, self.bits)), torch.int32)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of codes."""
        return 4 * self.codes.shape[2]


def level_offset(bits: int) -> float:
    """What is subtracted from a code to get its level: half-integers below 8 bits, integers at 8."""
    return 128.0 if bits == 8 else (2**bits - 1) / 2


def slot_tensor(slot: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """One slot where kernels read it: int32 on the device, in the first place of the tensor.

    Raises:
        UnsupportedShapeError: a tensor of another type, or of none.
    """
    if isinstance(slot, int):
        return torch.full((1,), slot, dtype=torch.int32, device=device)
    if slot.dtype != torch.int32 or not slot.numel() or slot.device != device:
        raise UnsupportedShapeError(
            f"slot must be an int, or int32 on {device}, got {slot.numel()} {slot.dtype} on {slot.device}"
        )
    return slot


def check_part(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Nothing, if `tensor` may be a part of an arena."""
    if tuple(tensor.shape) != shape or tensor.dtype != dtype or not tensor[:1].is_contiguous():
        raise UnsupportedShapeError(
            f"{name} must be {list(shape)} {dtype}, contiguous in a slot, got {list(tensor.shape)} {tensor.dtype}"
        )
    begins = (tensor.storage_offset() * tensor.element_size(), tensor.stride(0) * tensor.element_size())
    if not tensor.is_contiguous() and any(offset % SLOT_ALIGNMENT_BYTES for offset in begins):
        raise UnsupportedShapeError(
            f"{name} of slots that lie apart must begin at multiples of {SLOT_ALIGNMENT_BYTES} bytes, "
            f"got the first at {begins[0]} and a stride of {begins[1]}"
        )
