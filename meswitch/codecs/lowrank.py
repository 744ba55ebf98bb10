"""Low rank: the leading singular vectors of the delta, in half precision or, after Delta-CoMe, in falling precision.

Delta-CoMe (Ping et al., arXiv 2406.08903) spends more bits on the larger singular values. What differs here is declared
in docs/codecs.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_cast, checked_delta
from meswitch.codecs.options import check_choice, check_not_negative, options_of
from meswitch.codecs.quantise import FIT_RULES, FitRule
from meswitch.codecs.rtn import Rtn
from meswitch.codecs.subspace import balanced_factors, leading_directions
from meswitch.errors import CodecOptionError
from meswitch_kernels.packing import words_per_row

__all__ = ["LowRank"]

Precision = Literal["float16", "mixed"]

# vectors at most, by bits, of `precision=mixed`; the rest have two bits
_LEADING = {8: 2, 4: 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """`D̂ = left · right`, with R components.

    Attributes:
        bits: bytes of all components, in bits per element of the delta: as many components as fit into them.
        rank: the number of components; 0 takes what `bits` affords.
        precision: `float16`, or `mixed`: 8 bits for the first 2 components, 4 bits for the next 32, 2 for the rest.
        step: of the quantised vectors, `mse` or `unbiased`.
    """

    name: ClassVar[str] = "lowrank"
    gain_tensors: ClassVar[tuple[str, ...]] = ("left", "left8_step", "left4_step", "left2_step")

    bits: float = 2.0
    rank: int = 0
    precision: Precision = "float16"
    step: FitRule = "unbiased"

    def __post_init__(self) -> None:
        check_choice(self.name, "precision", self.precision, get_args(Precision))
        check_choice(self.name, "step", self.step, FIT_RULES)
        check_not_negative(self.name, rank=self.rank)
        if not 0 < self.bits <= 32:
            raise CodecOptionError(f"codec lowrank: bits must be above 0 and at most 32, got {self.bits}")

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """The factors: `left` `[N, R]` and `right` `[R, K]` float16; or their vectors, quantised.

        With `precision=mixed`, for each of 8, 4 and 2 bits that has components: `left8` `[R8, words]` int32 and
        `left8_step` `[R8]` float32, packed and stepped by vector as `rtn` does by row, then `right8` and `right8_step`.

        Raises:
            CodecOptionError: if `bits` affords no component, or `rank` is more than the delta can have.
        """
        ranks = self.ranks(N, K)
        if self.precision == "float16":
            R = ranks[16]
            return {"left": TensorSpec((N, R), torch.float16), "right": TensorSpec((R, K), torch.float16)}
        return {
            name: spec
            for bits, R in ranks.items()
            for side, length in (("left", N), ("right", K))
            for name, spec in self._named(side, bits, self._vectors(bits).layout(R, length)).items()
        }

    def compress(self, delta: torch.Tensor, *, input_square_sum: torch.Tensor | None = None) -> CompressedDelta:
        """`delta` as its leading components; calibration is not used.

        Raises:
            ValueError: if the delta is not a finite matrix, or a factor does not fit float16.
            CodecOptionError: as `layout`.
        """
        del input_square_sum
        delta = checked_delta(delta)
        N, K = delta.shape
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        if not delta.is_meta:
            ranks = self.ranks(N, K)
            left, right = balanced_factors(delta, leading_directions(delta, sum(ranks.values())))
            if self.precision == "float16":
                tensors = {"left": checked_cast(left, torch.float16), "right": checked_cast(right, torch.float16)}
            else:
                tensors = self._quantised(left.T, right, ranks)
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """`left · right`, `[N, K]` float32."""
        check_tensors(self, compressed)
        (N, K), tensors = compressed.shape, compressed.tensors
        if self.precision == "float16":
            return tensors["left"].to(torch.float32) @ tensors["right"].to(torch.float32)
        left, right = (
            torch.cat([self._restored(tensors, side, bits, R, length) for bits, R in self.ranks(N, K).items()])
            for side, length in (("left", N), ("right", K))
        )
        return left.T @ right

    def ranks(self, N: int, K: int) -> dict[int, int]:
        """How many components have how many bits, more bits first; without those that have none."""
        most = min(N, K)
        if self.rank > most:
            raise CodecOptionError(f"codec lowrank: rank must be at most {most} for [{N}, {K}], got {self.rank}")
        left_rank, left_bytes = self.rank or most, float("inf") if self.rank else self.bits * N * K / 8
        ranks = {}
        widths = {16: most} if self.precision == "float16" else {**_LEADING, 2: most}
        for bits, limit in widths.items():
            size = 2 * (N + K) if bits == 16 else 4 * (words_per_row(N, bits) + words_per_row(K, bits) + 2)
            R = int(min(limit, left_rank, left_bytes // size))
            if R:
                ranks[bits] = R
            left_rank, left_bytes = left_rank - R, left_bytes - R * size
        if not ranks:
            raise CodecOptionError(
                f"codec lowrank: bits must afford at least one component of [{N}, {K}], got {self.bits}; raise it"
            )
        return ranks

    def _vectors(self, bits: int) -> Rtn:
        return Rtn(bits=bits, step=self.step)

    def _named(self, side: str, bits: int, parts: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        return {f"{side}{bits}": parts["codes"], f"{side}{bits}_step": parts["step"]}

    def _quantised(self, left: torch.Tensor, right: torch.Tensor, ranks: Mapping[int, int]) -> dict[str, torch.Tensor]:
        """The stored tensors of the vectors `left` `[R, N]` and `right` `[R, K]`."""
        tensors, start = {}, 0
        for bits, R in ranks.items():
            for side, vectors in (("left", left), ("right", right)):
                parts = self._vectors(bits).compress(vectors[start : start + R]).tensors
                tensors[f"{side}{bits}"], tensors[f"{side}{bits}_step"] = parts["codes"], parts["step"]
            start += R
        return tensors

    def _restored(self, tensors: Mapping[str, torch.Tensor], side: str, bits: int, R: int, length: int) -> torch.Tensor:
        """The vectors `[R, length]` of one side at one precision."""
        codec = self._vectors(bits)
        parts = {"codes": tensors[f"{side}{bits}"], "step": tensors[f"{side}{bits}_step"]}
        return codec.decompress(
            CompressedDelta(codec=codec.name, options=codec.options, shape=(R, length), tensors=parts)
        )
