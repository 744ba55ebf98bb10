"""Codes of an expert, trained so that the model's distribution comes near the expert's.

The delta itself is trained: each step describes it anew by the codec, and takes the gradient of the described delta for
its own (the straight-through estimator, Bengio et al., arXiv 1308.3432), as quantisation-aware training does with
weights. Positions, signs and steps all follow from it, so what is trained has the codec's own format and size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from harness.fidelity.distil import Batch, Distiller
from harness.fidelity.stacked import grouped, has_independent_rows, split
from harness.fidelity.subject import take_delta
from meswitch.codecs import Codec, decompress

__all__ = ["RecodingConfig", "train_codes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecodingConfig:
    """How deltas are trained: `steps` of Adam, one batch each.

    Attributes:
        learning_rate: at the first step, falling to 0; in shares of a row's root mean square.
    """

    steps: int = 160
    learning_rate: float = 0.01


def train_codes(
    distiller: Distiller, codec: Codec, deltas: Mapping[str, torch.Tensor], config: RecodingConfig
) -> dict[str, torch.Tensor]:
    """D̂ of every linear once its delta has been trained.

    Args:
        distiller: all of whose items are trained on; its model holds other weights afterwards.
        codec: describes every output channel for itself.
        deltas: `[N, K]` float32, by parameter name.

    Raises:
        ValueError: the codec is not such a one.
    """
    if not has_independent_rows(codec):
        raise ValueError(f"codes can be trained if a codec describes rows one by one, got {codec.name}")
    latents = [Latents(deltas, names) for names in grouped(deltas, lambda delta: delta.shape[1])]
    rate = torch.zeros((), device=latents[0].values.device)
    # gradients of a mean over tokens are far smaller than the usual epsilon
    optimizer = torch.optim.Adam([part.values for part in latents], lr=rate, eps=1e-12, fused=True)
    for number, batch in enumerate(islice(cycle(distiller.batches), config.steps)):
        rate.fill_(config.learning_rate * (1 - number / config.steps))
        described = {name: delta for part in latents for name, delta in part.described(codec)}
        gradients = gradients_at(distiller, described, batch)
        for part in latents:
            part.take(gradients)
        optimizer.step()
    return {name: delta.clone() for part in latents for name, delta in part.described(codec)}


def gradients_at(distiller: Distiller, described: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
    """Of the KL to the expert of a batch, by every described delta."""
    take_delta(distiller.model, distiller.subject.base, described)
    gradients = torch.autograd.grad(batch.loss(distiller.model), distiller.places)
    return dict(zip(distiller.names, gradients, strict=True))


class Latents:
    """The output channels of all linears of one width.

    Attributes:
        values: their deltas `[N of all, K]`, each row in units of its root mean square.
    """

    def __init__(self, deltas: Mapping[str, torch.Tensor], names: Sequence[str]) -> None:
        self.names, self.deltas = names, deltas
        rows = torch.cat([deltas[name] for name in names])
        sizes = rows.square().mean(dim=1, keepdim=True).sqrt()
        # a row that was not changed keeps its zeros: it has no unit
        self.unit = torch.where(sizes > 0, sizes, 1.0)
        self.changed = (sizes > 0).to(rows.dtype)
        self.values = rows / self.unit
        self.values.grad = torch.zeros_like(self.values)

    def described(self, codec: Codec) -> Iterator[tuple[str, torch.Tensor]]:
        """D̂ of every linear."""
        rows = decompress(codec.compress(self.values.detach() * self.unit))
        yield from split(self.names, self.deltas, rows).items()

    def take(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Keep the gradients of what is described as those of the latent deltas."""
        assert self.values.grad is not None
        torch.cat([gradients[name] for name in self.names], out=self.values.grad)
        self.values.grad.mul_(self.unit * self.changed)
