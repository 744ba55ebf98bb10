"""Pairs as rows of token ids, in the base's chat format.

R rows, T tokens of a row, A tokens of an answer, its end included.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from meswitch.families.smollm2.tasks import Pair

__all__ = ["CHAT_TEMPLATE", "IGNORED", "Encoded", "Rows", "encode", "pad"]

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The base's own format without the system message that it puts first: experts are trained without one."""

IGNORED = -100
"""The label of padding."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One pair's token ids, and how many of the last ones are the answer and its end."""

    ids: tuple[int, ...]
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Right-padded rows on a device.

    Attributes:
        ids: `[R, T]` int64.
        places: `[R, A]` int64, the positions whose next token is counted; positions of padding repeat the last.
        labels: `[R, A]` int64, the next tokens; -100 is padding.
    """

    ids: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: torch.Tensor) -> "Rows":
        """The rows of `index`."""
        return Rows(ids=self.ids[index], places=self.places[index], labels=self.labels[index])


def encode(tokenizer: Any, pairs: Sequence[Pair]) -> list[Encoded]:
    """Each pair's ids, prompt and answer tokenised apart, as they are when an answer is generated."""
    if not pairs:
        return []
    texts = [f"<|im_start|>user\n{p.prompt}<|im_end|>\n<|im_start|>assistant\n" for p in pairs]
    prompts = tokenizer(texts, return_attention_mask=False)
    answers = tokenizer([f"{p.answer}<|im_end|>" for p in pairs], return_attention_mask=False)
    both = zip(prompts["input_ids"], answers["input_ids"], strict=True)
    return [Encoded((*prompt, *answer), len(answer)) for prompt, answer in both]


def pad(rows: Iterable[Encoded], device: torch.device | str, *, pad_id: int = 0) -> Rows:
    """Rows of equal length on `device`. What stands behind an answer is never looked at: attention is causal."""
    rows = list(rows)
    T, A = max(len(row.ids) for row in rows), max(row.answer for row in rows)
    # lists become one tensor in a fraction of the time that a tensor for each row takes
    ids = [[*row.ids, *[pad_id] * (T - len(row.ids))] for row in rows]
    labels = [[*row.ids[len(row.ids) - row.answer :], *[IGNORED] * (A - row.answer)] for row in rows]
    first = torch.tensor([len(row.ids) - row.answer - 1 for row in rows]).unsqueeze(1)
    last = torch.tensor([len(row.ids) - 2 for row in rows]).unsqueeze(1)
    places = torch.minimum(first + torch.arange(A), last)
    return Rows(ids=torch.tensor(ids).to(device), places=places.to(device), labels=torch.tensor(labels).to(device))
