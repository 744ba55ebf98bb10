"""A weight matrix in the form that products are computed from: dense, or base and small integers side by side.

    Dense  : y = x·Wᵀ + b
    Levels : y = x·Wᵀ + b + (x·Lᵀ) ⊙ s + x[:, salient]·Vᵀ     with D̂ = s ⊙ L + V

L holds a codec's levels as int8: a quarter of a dense matrix, and as fast on a CPU, where the product of few rows
waits for memory and not for arithmetic. Both give W + D̂ up to the rounding of float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F

from meswitch.codecs.base import CompressedDelta
from meswitch_kernels.packing import BLOCK

__all__ = ["DenseOperand", "LevelOperand", "Operand", "has_levels", "level_operand", "level_operand_bytes"]

CODE_BITS: Mapping[str, Callable[[CompressedDelta], int]] = {
    "bitdelta": lambda _: 1,
    "rtn": lambda compressed: int(compressed.options["bits"]),
    "salient": lambda compressed: int(compressed.options["bits"]),
}
"""The built-in codecs that store packed levels and steps, and how wide their codes are."""

WORD_BITS = 32

PACKED_DTYPES = {1: torch.int64, 2: torch.int32, 4: torch.int16}
"""One element holds the int8 levels of all codes of one byte."""


class Operand(Protocol):
    """A matrix `[N, K]`, multiplied or looked up."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds beside the base's."""

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`x·Wᵀ + bias`, `[..., N]` float32, for `x` `[..., K]`."""

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows `ids` `[n]`: `[n, K]` float32."""


@dataclass(frozen=True, slots=True)
class DenseOperand:
    """The matrix as it is, `[N, K]` float32."""

    matrix: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        return self.matrix.numel() * self.matrix.element_size()

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`x·Wᵀ + bias`."""
        return F.linear(x, self.matrix, bias)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Some rows."""
        return F.embedding(ids, self.matrix)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelOperand:
    """A base matrix and a delta of small integers.

    Attributes:
        base: `[N, K]` float32, not owned.
        levels: `[N, P]` int8; P is K rounded up to whole blocks of codes.
        order: the input channel of each column of `levels`, `[P]` int64; K and above are padding.
        scale: what a level of 1 is worth, `[N]` or `[1]` float32.
        salient: input channels with exact values, `[S]` int64; `None` without.
        values: of those, `[N, S]` float32.
        added: rows beyond the base's, `[R, K]` float32; `None` without.
    """

    base: torch.Tensor
    levels: torch.Tensor
    order: torch.Tensor
    scale: torch.Tensor
    salient: torch.Tensor | None
    values: torch.Tensor | None
    added: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of all that is owned; `order` is shared by all matrices of that width."""
        owned = (self.levels, self.scale, self.salient, self.values, self.added)
        return sum(t.numel() * t.element_size() for t in owned if t is not None)

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`x·Wᵀ + bias` with W = base + D̂, and the added rows below."""
        own = None if bias is None else bias[: self.base.shape[0]]
        # a few rows of x are put in the order of the levels, not the whole matrix in the order of x
        padded = F.pad(x, (0, self.order.shape[0] - x.shape[-1])) if self.order.shape[0] > x.shape[-1] else x
        delta = F.linear(padded.index_select(-1, self.order), self.levels.float())
        y = F.linear(x, self.base, own).addcmul_(delta, self.scale)
        if self.salient is not None and self.values is not None:
            y += F.linear(x.index_select(-1, self.salient), self.values)
        if self.added is None:
            return y
        rest = None if bias is None else bias[self.base.shape[0] :]
        return torch.cat((y, F.linear(x, self.added, rest)), dim=-1)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Some rows of base + D̂, or of the added ones."""
        known = ids.clamp(max=self.base.shape[0] - 1)
        scale = self.scale[known] if self.scale.shape[0] > 1 else self.scale
        levels = torch.empty(ids.shape[0], self.order.shape[0])
        levels[:, self.order] = self.levels[known].float()
        rows = F.embedding(known, self.base).addcmul_(levels[:, : self.base.shape[1]], scale.unsqueeze(-1))
        if self.salient is not None and self.values is not None:
            rows.index_add_(1, self.salient, self.values[known])
        if self.added is not None:
            new = (ids >= self.base.shape[0]).nonzero().squeeze(-1)
            rows[new] = self.added[ids[new] - self.base.shape[0]]
        return rows


def has_levels(compressed: CompressedDelta) -> bool:
    """Whether its codec stores packed levels, so that `level_operand` applies."""
    return compressed.codec in CODE_BITS


def level_operand(
    compressed: CompressedDelta, *, base: torch.Tensor, added: torch.Tensor | None = None
) -> LevelOperand:
    """`base` `[N, K]` + D̂ as a product with small integers; equal to `base + decompress(compressed)`."""
    bits, tensors = CODE_BITS[compressed.codec](compressed), compressed.tensors
    salient = tensors.get("salient")
    return LevelOperand(
        base=base,
        levels=_unpack_levels(tensors["codes"], bits),
        order=_column_order(tensors["codes"].shape[1], bits),
        # levels below 8 bits are halves of odd integers
        scale=tensors["step"] if bits == 8 else tensors["step"] / 2,
        salient=None if salient is None or not salient.numel() else salient.long(),
        values=None if salient is None or not salient.numel() else tensors["values"].float(),
        added=None if added is None else added.float(),
    )


def level_operand_bytes(compressed: CompressedDelta, added: torch.Tensor | None) -> int:
    """`nbytes` of the `level_operand` of `compressed`, known without making it."""
    bits, tensors = CODE_BITS[compressed.codec](compressed), compressed.tensors
    levels = tensors["codes"].numel() * WORD_BITS // bits
    channels = tensors["salient"].numel() if "salient" in tensors else 0
    exact = compressed.shape[0] * channels * 4 + channels * 8
    return levels + tensors["step"].numel() * 4 + exact + (0 if added is None else added.numel() * 4)


def _unpack_levels(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Twice the level of each code (at 8 bits: the level), `[N, P]` int8 in the order in which bytes lie."""
    octets = words.view(torch.uint8)
    if bits == 8:
        return (octets ^ 128).view(torch.int8)
    # one look-up finds the levels of all codes of a byte
    found = _byte_levels(bits).index_select(0, octets.reshape(-1).int())
    return found.view(torch.int8).view(words.shape[0], -1)


@lru_cache
def _column_order(words: int, bits: int) -> torch.Tensor:
    """The element that each unpacked level of a row of `words` words is.

    Byte b of word j of a block holds, from the lowest bits on, the elements `j + (b·8/bits + t)·W`, where W is the
    number of words of a block: see `meswitch_kernels.packing`.
    """
    per_byte, per_block = 8 // bits, 2 * bits
    block = torch.arange(words // per_block).view(-1, 1, 1, 1) * BLOCK
    word = torch.arange(per_block).view(1, -1, 1, 1)
    octet = torch.arange(4).view(1, 1, -1, 1) * per_byte
    return (block + word + (octet + torch.arange(per_byte)) * per_block).flatten()


@lru_cache
def _byte_levels(bits: int) -> torch.Tensor:
    """Twice the levels of the codes in each possible byte, `[256]`, each element a group of int8."""
    codes = torch.arange(256)[:, None] >> (torch.arange(8 // bits) * bits) & ((1 << bits) - 1)
    return (2 * codes - ((1 << bits) - 1)).to(torch.int8).view(PACKED_DTYPES[bits]).squeeze(1)
