"""Scores a model on fixed items against the expert's own distribution, teacher-forced over the answers.

n tokens of answers, H hidden, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from meswitch.families.pocket.forward import hidden_of
from meswitch.families.smollm2.rows import IGNORED, Encoded, Rows, pad

__all__ = ["Bench", "Scores", "token_batches"]

LOGIT_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Scores:
    """One number for each item; see `harness.fidelity.scores.Record`."""

    tokens: NDArray[np.int64]
    nll: NDArray[np.float64]
    kl: NDArray[np.float64]
    agree: NDArray[np.int64]
    right: NDArray[np.int64]

    @property
    def kl_per_token(self) -> float:
        """KL(expert ‖ model) of an answer token, in nats."""
        return float(self.kl.sum() / self.tokens.sum())


class Bench:
    """Items on a device, and what the expert makes of them.

    Args:
        model: holds the expert's weights now; scored later with whatever weights it holds then.
        items: their order is that of every score.
        tokens_per_batch: padded tokens that go through the model at once.
    """

    def __init__(self, model: Any, items: Sequence[Encoded], *, tokens_per_batch: int) -> None:
        self.model = model
        self.count, self.tokens_per_batch = len(items), tokens_per_batch
        device = next(model.parameters()).device
        self.batches: list[tuple[Rows, torch.Tensor, torch.Tensor]] = []
        for numbers in token_batches(items, tokens_per_batch):
            rows = pad([items[i] for i in numbers], device)
            counted = rows.labels != IGNORED
            owner = torch.tensor(numbers, device=device).unsqueeze(1).expand_as(rows.labels)[counted]
            self.batches.append((rows, owner, rows.labels[counted]))
        self.head = model.lm_head.weight.detach().clone()
        self.reference = list(self.hidden())

    @torch.no_grad()
    def hidden(self) -> Iterator[torch.Tensor]:
        """Of each batch, the hidden states `[n, H]` before its answer tokens."""
        for rows, _, _ in self.batches:
            states = hidden_of(self.model, rows.ids)
            chosen = states.gather(1, rows.places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
            yield chosen[rows.labels != IGNORED]

    @torch.no_grad()
    def score(self) -> Scores:
        """The scores of the model's present weights."""
        sums = torch.zeros(5, self.count, dtype=torch.float64, device=self.head.device)
        for states, expected, (_, owner, labels) in zip(self.hidden(), self.reference, self.batches, strict=True):
            for start in range(0, len(labels), LOGIT_ROWS):
                part = slice(start, start + LOGIT_ROWS)
                values = self.token_scores(states[part], expected[part], labels[part])
                sums.index_add_(1, owner[part], values)
        tokens, nll, kl, agree, right = sums.cpu().numpy()
        whole = [x.round().astype(np.int64) for x in (tokens, agree, right)]
        return Scores(tokens=whole[0], nll=nll, kl=kl, agree=whole[1], right=whole[2])

    def token_scores(self, states: torch.Tensor, expected: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of each token `[5, n]` float64: 1, its nll, KL, whether expert and model agree, whether it is right."""
        found = F.log_softmax(F.linear(states, self.model.lm_head.weight).float(), dim=-1)
        wanted = F.log_softmax(F.linear(expected, self.head).float(), dim=-1)
        best = found.argmax(dim=-1)
        nll = -found.gather(1, labels.unsqueeze(1)).squeeze(1)
        agree, right = best == wanted.argmax(dim=-1), best == labels
        kl = (wanted.exp() * (wanted - found)).sum(dim=-1)
        return torch.stack([x.to(torch.float64) for x in (torch.ones_like(nll), nll, kl, agree, right)])


def token_batches(items: Sequence[Encoded], tokens: int) -> Iterator[list[int]]:
    """Numbers of items of like length, so many that they take at most `tokens` when padded, or one."""
    order = sorted(range(len(items)), key=lambda i: len(items[i].ids))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(items[i].ids) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
