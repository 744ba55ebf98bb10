"""All matrices of an expert described at once, for codecs that would start thousands of kernels for each of them.

Every function here gives what the codec's own `compress` and `decompress` give matrix by matrix, up to the rounding of
sums in another order (tests hold them to that). B matrices of one shape, N output and K input channels, R components.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from harness.fidelity.moments import Moments
from meswitch.codecs import Codec, decompress
from meswitch.codecs.eora import Eora
from meswitch.codecs.gptq import Gptq, feedback_of, round_with_feedback
from meswitch.codecs.levels import nearest_levels
from meswitch.codecs.lowrank import LowRank
from meswitch.codecs.nested import Nested
from meswitch.codecs.quantise import fitted_steps, quantise_rows, row_chunks
from meswitch.codecs.rtn import Rtn
from meswitch.codecs.salient import Salient
from meswitch.codecs.selection import channel_scores, split_channels
from meswitch.codecs.sparse_sign import SparseSign
from meswitch.codecs.subspace import balanced_factors, leading_directions, moment_root
from meswitch.codecs.ternary import Ternary

__all__ = ["Stacks", "grouped", "has_independent_rows", "split"]

Describe = Callable[[torch.Tensor], torch.Tensor]
Matrices = Mapping[str, torch.Tensor]
Quantised = tuple[torch.Tensor, torch.Tensor]
Name = TypeVar("Name", bound=Hashable)


def has_independent_rows(codec: Codec) -> bool:
    """Whether a row of D̂ depends on that row of the delta alone: matrices of equal width can be described as one."""
    match codec:
        case Nested() | Rtn():
            return True
        case SparseSign():
            return codec.channels == 0 and codec.pick == "magnitude"
        case Ternary():
            return codec.scope == "row"
    return False


class Stacks:
    """The deltas of one expert, and what several codecs need of them: singular vectors are found once.

    Args:
        deltas: `[N, K]` float32, by parameter name, on one device.
        moments: of the inputs, on the same device; matrices with one input share one moment.
    """

    def __init__(self, deltas: Matrices, moments: Moments) -> None:
        self.deltas, self.moments = deltas, moments
        self.directions: dict[tuple[int, int], torch.Tensor] = {}

    def describe(self, codec: Codec) -> dict[str, torch.Tensor] | None:
        """D̂ of every matrix; `None` if the codec is to be asked matrix by matrix."""
        match codec:
            case _ if has_independent_rows(codec):
                return self.by_width(lambda rows: decompress(codec.compress(rows)))
            case Salient():
                return self.salient(codec, self.deltas)
            case Gptq():
                return dict(self.gptq(codec))
            case LowRank():
                return dict(self.lowrank(codec))
            case Eora():
                return dict(self.eora(codec))
        return None

    def by_width(self, describe: Describe) -> dict[str, torch.Tensor]:
        """What `describe` makes of the rows of all matrices of one width together."""
        described: dict[str, torch.Tensor] = {}
        for names in grouped(self.deltas, lambda delta: delta.shape[1]):
            described |= split(names, self.deltas, describe(torch.cat([self.deltas[name] for name in names])))
        return described

    def by_shape(self) -> Iterator[tuple[Sequence[str], torch.Tensor]]:
        """Names of the matrices of one shape, and those `[B, N, K]`, shape by shape."""
        for names in grouped(self.deltas, lambda delta: tuple(delta.shape)):
            yield names, torch.stack([self.deltas[name] for name in names])

    def salient(self, codec: Salient, deltas: Matrices) -> dict[str, torch.Tensor]:
        """As `Salient`: channels matrix by matrix, codes and steps of all rows of one width together."""
        described: dict[str, torch.Tensor] = {}
        for names in grouped(deltas, lambda delta: delta.shape[1]):
            rows = torch.cat([deltas[name] for name in names])
            coarse = quantised(rows, codec) if codec.select == "error" or not codec.refit else None
            chosen = dict(self.channels(codec, names, deltas, rows, coarse))
            # an index of the rows' own channels for every row: [N of all, channels that are not salient]
            rest = torch.cat([chosen[name][1].expand(len(deltas[name]), -1) for name in names])
            kept = torch.cat([chosen[name][0].expand(len(deltas[name]), -1) for name in names])
            dense, step = rows.gather(1, rest), None
            if codec.refit or coarse is None:
                levels, step = quantised(dense, codec)
                salient_levels = nearest_levels(
                    rows.gather(1, kept) / torch.where(step > 0, step, 1.0).unsqueeze(1), codec.bits
                )
            else:
                levels, salient_levels, step = coarse[0].gather(1, rest), coarse[0].gather(1, kept), coarse[1]
                if codec.step == "unbiased":
                    step = fitted_steps(dense, levels, rule="unbiased")
            coded = step.unsqueeze(1) * salient_levels
            values = (rows.gather(1, kept) - coded).to(torch.float16).to(torch.float32)
            whole = torch.empty_like(rows).scatter_(1, rest, step.unsqueeze(1) * levels)
            described |= split(names, deltas, whole.scatter_(1, kept, coded + values))
        return described

    def channels(
        self,
        codec: Salient,
        names: Sequence[str],
        deltas: Matrices,
        rows: torch.Tensor,
        coarse: Quantised | None,
    ) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor]]]:
        """The salient channels of each matrix, and the others."""
        errors = None
        if codec.select == "error" and coarse is not None:
            errors = split(names, deltas, rows - coarse[1].unsqueeze(1) * coarse[0])
        for name in names:
            sums = self.moments.square_sums[name].to(rows.device, torch.float64)
            if errors is not None:
                scores = sums * errors[name].to(torch.float64).square_().sum(dim=0)
            else:
                scores = channel_scores(
                    deltas[name], select=codec.select, input_square_sum=sums, quantise=_no_rows, seed=codec.seed
                )
            yield name, split_channels(scores, codec.channels)

    def gptq(self, codec: Gptq) -> Iterator[tuple[str, torch.Tensor]]:
        """As `Gptq`: one column after the other, of all matrices of one shape."""
        for names, deltas in self.by_shape():
            B, N, K = deltas.shape
            _, steps = quantised(deltas.view(B * N, K), Salient(bits=codec.bits, step="mse"))
            moments = torch.stack([self.moments.second[name] for name in names]).to(deltas.device, torch.float64)
            feedback = feedback_of(moments, codec.damp)
            levels = round_with_feedback(deltas, steps.view(B, N), feedback, codec.bits).view(B * N, K)
            if codec.step == "unbiased":
                steps = fitted_steps(deltas.view(B * N, K), levels, rule="unbiased")
            yield from zip(names, (steps.unsqueeze(1) * levels).view(B, N, K), strict=True)

    def lowrank(self, codec: LowRank) -> Iterator[tuple[str, torch.Tensor]]:
        """As `LowRank`: the singular vectors of all matrices of one shape together."""
        for names, deltas in self.by_shape():
            N, K = deltas.shape[1:]
            if (N, K) not in self.directions:
                self.directions[N, K] = leading_directions(deltas, min(N, K))
            ranks = codec.ranks(N, K)
            left, right = balanced_factors(deltas, self.directions[N, K][..., : sum(ranks.values())])
            if codec.precision == "float16":
                left, right = left.to(torch.float16).to(torch.float32), right.to(torch.float16).to(torch.float32)
            else:
                left, right = rounded(left.mT, ranks, codec).mT, rounded(right, ranks, codec)
            yield from zip(names, left @ right, strict=True)

    def eora(self, codec: Eora) -> Iterator[tuple[str, torch.Tensor]]:
        """As `Eora`: the fixes of all matrices of one shape together."""
        coarse = self.salient(codec.coarse(), self.deltas)
        roots = self.roots()
        for names, deltas in self.by_shape():
            described = torch.stack([coarse[name] for name in names])
            errors = deltas - described
            weighted = errors.to(torch.float64) @ torch.stack([roots[name] for name in names])
            left, right = balanced_factors(errors, leading_directions(weighted, codec.rank))
            fix = left.to(torch.float16).to(torch.float32) @ right.to(torch.float16).to(torch.float32)
            yield from zip(names, described + fix, strict=True)

    def roots(self) -> dict[str, torch.Tensor]:
        """`M^½` of every matrix's inputs; matrices with one input share it."""
        distinct = {id(moment): moment for moment in self.moments.second.values()}
        found: dict[int, torch.Tensor] = {}
        for numbers in grouped(distinct, len):
            stack = torch.stack([distinct[number] for number in numbers])
            found |= dict(zip(numbers, moment_root(stack), strict=True))
        return {name: found[id(moment)] for name, moment in self.moments.second.items()}


def grouped(tensors: Mapping[Name, torch.Tensor], key: Callable[[torch.Tensor], object]) -> Iterator[Sequence[Name]]:
    """The names of tensors with one key, key by key."""
    groups: dict[object, list[Name]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(key(tensor), []).append(name)
    yield from groups.values()


def split(names: Sequence[str], deltas: Matrices, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The rows of each of the matrices that were stacked."""
    return dict(zip(names, torch.split(rows, [len(deltas[name]) for name in names]), strict=True))


def quantised(rows: torch.Tensor, codec: Salient) -> Quantised:
    """Levels `[N, K]` and steps `[N]` of `rows` `[N, K]`, a few at a time."""
    levels, steps = torch.empty_like(rows), torch.empty_like(rows[:, 0])
    for part in row_chunks(*_shape(rows), rows.device):
        levels[part], steps[part] = quantise_rows(rows[part], bits=codec.bits, rule=codec.step)
    return levels, steps


def rounded(vectors: torch.Tensor, ranks: Mapping[int, int], codec: LowRank) -> torch.Tensor:
    """The vectors `[B, R, length]` of a low rank as their bits leave them."""
    parts = []
    for bits, part in zip(ranks, torch.split(vectors, list(ranks.values()), dim=1), strict=True):
        rows = Rtn(bits=bits, step=codec.step)
        parts.append(decompress(rows.compress(part.reshape(-1, part.shape[-1]))).view(part.shape))
    return torch.cat(parts, dim=1)


def _shape(rows: torch.Tensor) -> tuple[int, int]:
    N, K = rows.shape
    return N, K


def _no_rows(rows: torch.Tensor) -> Quantised:
    raise AssertionError(f"only select=error quantises, got {len(rows)} rows")
