"""Random dropping: a few elements at random, enlarged to make up for the others. DARE (Yu et al., arXiv 2311.03099)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_cast, checked_delta
from meswitch.codecs.options import check_not_negative, options_of
from meswitch.codecs.quantise import row_chunks
from meswitch.errors import CodecOptionError, DeltaFormatError
from meswitch_kernels.packing import pack, unpack, words_per_row

__all__ = ["Dare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dare:
    """`D̂ = D · K / C` in C random places of each row, 0 elsewhere: `D` on average over seeds.

    Attributes:
        drop: the share of elements that are dropped, at least 0 and below 1; at least one of each row is kept.
        seed: of the places, which are the same for every delta of one shape.
    """

    name: ClassVar[str] = "dare"
    gain_tensors: ClassVar[tuple[str, ...]] = ("values",)

    drop: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise CodecOptionError(f"codec dare: drop must be at least 0 and below 1, got {self.drop}")
        check_not_negative(self.name, seed=self.seed)

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """`mask`: where elements are kept, packed bits, `[N, words]` int32. `values`: theirs, `[N, C]` float16."""
        return {
            "mask": TensorSpec((N, words_per_row(K, 1)), torch.int32),
            "values": TensorSpec((N, self._kept(K)), torch.float16),
        }

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` as a mask and values; calibration is not used.

        Raises:
            ValueError: if the delta is not a finite matrix, or an enlarged value does not fit float16.
        """
        del input_square_sum
        delta = checked_delta(delta)
        N, K = delta.shape
        C = self._kept(K)
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        generator = _generator(self.seed)
        for rows in row_chunks(N, K):
            # drawn on the CPU, so that every device keeps the same places
            order = torch.rand(rows.stop - rows.start, K, generator=generator).argsort(dim=1, stable=True)
            places = order[:, :C].sort(dim=1).values.to(delta.device)
            mask = torch.zeros(places.shape[0], K, dtype=torch.uint8, device=delta.device).scatter_(1, places, 1)
            tensors["mask"][rows] = pack(mask, 1)
            tensors["values"][rows] = checked_cast(delta[rows].gather(1, places) * (K / C), torch.float16)
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """The kept values in their places, `[N, K]` float32.

        Raises:
            DeltaFormatError: if the tensors are not the declared ones, or a row of the mask keeps another number.
        """
        check_tensors(self, compressed)
        (N, K), values = compressed.shape, compressed.tensors["values"]
        delta = torch.empty(N, K, device=values.device)
        for rows in row_chunks(N, K):
            mask = unpack(compressed.tensors["mask"][rows], 1, K)
            number = mask.cumsum(dim=1)
            if not mask.is_meta and not bool((number[:, -1] == values.shape[1]).all()):
                raise DeltaFormatError(f"codec dare: the mask must keep {values.shape[1]} elements of every row")
            # before a row's first kept element the number is 0
            kept = values[rows].to(torch.float32).gather(1, (number - 1).clamp_(min=0))
            delta[rows] = kept.mul_(mask)
        return delta

    def _kept(self, K: int) -> int:
        return max(1, round((1 - self.drop) * K))


def _generator(seed: int) -> torch.Generator:
    """A generator whose numbers are not those of `manual_seed(seed)`, of which synthetic deltas are made."""
    digest = hashlib.sha256(f"dare:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
