"""Error feedback: codes that make up for each other's errors. GPTQ (Frantar et al., arXiv 2210.17323) on the delta.

As in DeltaZip (Yao et al., arXiv 2312.05215), without its sparsity. What differs is declared in docs/codecs.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from meswitch.codecs.base import CompressedDelta, OptionValue, TensorSpec
from meswitch.codecs.checks import check_tensors, checked_delta, checked_second_moment
from meswitch.codecs.levels import codes_of, nearest_levels
from meswitch.codecs.options import check_choice, options_of
from meswitch.codecs.quantise import FIT_RULES, FitRule, fitted_steps, quantise_rows, row_chunks
from meswitch.codecs.rtn import Rtn
from meswitch.errors import CodecOptionError
from meswitch_kernels.packing import BITS, pack

__all__ = ["Gptq", "feedback_of", "round_with_feedback"]

# columns whose feedback to later ones is summed up before it is applied
_BLOCK_COLUMNS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Gptq:
    """`D̂ = step · level` as in `rtn`, with levels chosen one input channel after the other.

    The error of a channel is made up for, as far as its inputs vary together with later ones, by changing those before
    they are rounded.

    Attributes:
        bits: of a code: 1, 2, 4 or 8.
        step: `mse`: the least-squares step of `rtn`, found before. `unbiased`: the levels of `mse`, and the step with
            which `⟨D, D̂⟩ = ‖D‖²` in each row.
        damp: added to the diagonal of the second moment, as a share of its mean.
    """

    name: ClassVar[str] = "gptq"
    gain_tensors: ClassVar[tuple[str, ...]] = ("step",)

    bits: int = 2
    step: FitRule = "unbiased"
    damp: float = 0.01

    def __post_init__(self) -> None:
        check_choice(self.name, "bits", self.bits, BITS)
        check_choice(self.name, "step", self.step, FIT_RULES)
        if not 0 < self.damp < float("inf"):
            raise CodecOptionError(f"codec gptq: damp must be finite and above 0, got {self.damp}")

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options, defaults included."""
        return options_of(self)

    def layout(self, N: int, K: int) -> Mapping[str, TensorSpec]:
        """`codes` and `step`, as `rtn` stores them."""
        return self._plain().layout(N, K)

    def compress(
        self,
        delta: torch.Tensor,
        *,
        input_square_sum: torch.Tensor | None = None,
        input_second_moment: torch.Tensor | None = None,
    ) -> CompressedDelta:
        """`delta` as codes and steps.

        Without second moments inputs are taken as independent; there is no feedback then, and the codes are those of
        `rtn`.

        Args:
            delta: expert minus base, `[N, K]`.
            input_square_sum: not used.
            input_second_moment: `Σ x xᵀ` over calibration tokens, `[K, K]`; `None` without calibration.

        Raises:
            ValueError: if an argument is not finite or of another shape.
        """
        del input_square_sum
        delta = checked_delta(delta)
        N, K = delta.shape
        tensors = {name: spec.empty(delta.device) for name, spec in self.layout(N, K).items()}
        levels = torch.empty_like(delta, memory_format=torch.contiguous_format)
        for rows in row_chunks(N, K, delta.device):
            levels[rows], tensors["step"][rows] = quantise_rows(delta[rows], bits=self.bits, rule="mse")
        if input_second_moment is not None and not delta.is_meta:
            moment = checked_second_moment(input_second_moment, K).to(delta.device)
            levels = round_with_feedback(delta, tensors["step"], feedback_of(moment, self.damp), self.bits)
        for rows in row_chunks(N, K, delta.device):
            tensors["codes"][rows] = pack(codes_of(levels[rows], self.bits), self.bits)
            if self.step == "unbiased":
                tensors["step"][rows] = fitted_steps(delta[rows], levels[rows], rule="unbiased")
        return CompressedDelta(codec=self.name, options=self.options, shape=(N, K), tensors=tensors)

    def decompress(self, compressed: CompressedDelta) -> torch.Tensor:
        """`step · level`, `[N, K]` float32."""
        check_tensors(self, compressed)
        plain = self._plain()
        return plain.decompress(
            CompressedDelta(codec=plain.name, options=plain.options, shape=compressed.shape, tensors=compressed.tensors)
        )

    def _plain(self) -> Rtn:
        return Rtn(bits=self.bits, step=self.step)


def feedback_of(second_moment: torch.Tensor, damp: float) -> torch.Tensor:
    """The upper Cholesky factors of the inverses of the damped second moments, `[…, K, K]` float32.

    Row k, divided by its diagonal, says how much of channel k's error the later channels take.

    Args:
        second_moment: `[…, K, K]` float64.
        damp: added to each diagonal, as a share of its mean.
    """
    mean = second_moment.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    # inputs that never occur are as good as independent
    damped = second_moment / torch.where(mean > 0, mean, 1.0)
    damped.diagonal(dim1=-2, dim2=-1).add_(damp)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: torch.Tensor = torch.linalg.cholesky(inverse).mT.contiguous()
    return factor.to(torch.float32)


def round_with_feedback(delta: torch.Tensor, step: torch.Tensor, feedback: torch.Tensor, bits: int) -> torch.Tensor:
    """The levels `[…, N, K]` of `delta` `[…, N, K]` at the steps `[…, N]`, for `feedback` `[…, K, K]`."""
    K = delta.shape[-1]
    left = delta.clone(memory_format=torch.contiguous_format)
    levels = torch.empty_like(left)
    divisor = torch.where(step > 0, step, 1.0)
    for start in range(0, K, _BLOCK_COLUMNS):
        stop = min(start + _BLOCK_COLUMNS, K)
        errors = torch.empty_like(left[..., start:stop])
        for k in range(start, stop):
            levels[..., k] = nearest_levels(left[..., k] / divisor, bits)
            error = (left[..., k] - step * levels[..., k]) / feedback[..., k, k, None]
            left[..., k:stop] -= error.unsqueeze(-1) * feedback[..., k, None, k:stop]
            errors[..., k - start] = error
        left[..., stop:] -= errors @ feedback[..., start:stop, stop:]
    return levels
