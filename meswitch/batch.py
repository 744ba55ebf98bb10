"""The rows that run: prompts enter one by one, then all rows advance together by one token a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch

from meswitch.core import SamplingParams
from meswitch.errors import CheckpointError
from meswitch.model import Segment, SwitchModel
from meswitch.sampling import Sampler
from meswitch.slot_cache import SlotCache
from meswitch.weights import ExpertWeights

__all__ = ["Batch", "Row", "RunningBatch", "RunningRow", "unusable"]


class RunningRow(Protocol):
    """One running request, as the engine holds it."""

    @property
    def weights(self) -> Any:
        """The lease of its expert."""


class RunningBatch(Protocol):
    """The rows that run together, wherever they are computed.

    Attributes:
        first_plane_tokens: output tokens computed before their expert's second bit plane was in place.
    """

    first_plane_tokens: int

    def __len__(self) -> int: ...

    @property
    def free_rows(self) -> int:
        """Rows that can be added."""

    def new_row(self, expert: str, weights: Any, sampling: SamplingParams) -> Any:
        """A row that is not in the batch yet."""

    def add(self, row: Any, token_ids: Sequence[int]) -> int | None:
        """The first output token of `row`, which belongs to the batch now; `None` if `decode` will give it."""

    def discard(self, row: Any) -> None:
        """Take `row` out if it is in."""

    def settle(self) -> None:
        """Forget what rows that ended have left behind."""

    def decode(self) -> Sequence[tuple[Any, int | None]]:
        """The next token of each row that has one; `None` where its expert is `unusable`."""


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One running request: `position` is where its newest token, `token`, will be computed."""

    expert: str
    weights: ExpertWeights
    sampler: Sampler
    slot: int = -1
    token: int = -1
    position: int = 0


class Batch:
    """Rows sorted by expert, and the cache slots they own: once settled, row i owns slot i."""

    def __init__(self, model: SwitchModel, cache: SlotCache, *, max_rows: int) -> None:
        self._model = model
        self._cache = cache
        self._max_rows = max_rows
        self._rows: list[Row] = []
        # an expert is read as a whole here
        self.first_plane_tokens = 0
        self._settled = True

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def free_rows(self) -> int:
        """Rows that can be added."""
        return self._max_rows - len(self._rows)

    def new_row(self, expert: str, weights: ExpertWeights, sampling: SamplingParams) -> Row:
        """A row that is not in the batch yet."""
        return Row(expert=expert, weights=weights, sampler=Sampler(sampling))

    def add(self, row: Row, token_ids: Sequence[int]) -> int:
        """The first output token of a request with input `token_ids`; `row` belongs to the batch from now on.

        Raises:
            CheckpointError: as `unusable` says.
        """
        row.slot = min(set(range(self._max_rows)) - {other.slot for other in self._rows})
        length = len(token_ids)
        row.position = length
        self._rows.append(row)
        self._settled = False
        self._model.bind([Segment(1, row.weights)])
        mask = self._cache.begin_prefill(row.slot, length)
        logits = self._model.forward(
            torch.tensor([token_ids]), positions=torch.arange(length)[None], mask=mask, cache=self._cache
        )
        if not logits.max().isfinite():
            raise unusable(row.expert)
        row.token = row.sampler.choose(logits[0])
        return row.token

    def discard(self, row: Row) -> None:
        """Take `row` out if it is in; its slot is free at once."""
        if row in self._rows:
            self._rows.remove(row)
            self._cache.clear(row.slot, row.position)
            self._settled = False

    def settle(self) -> None:
        """Sort rows and slots by expert and bind the model to them, if rows came or went. Bound weights stay alive."""
        if self._settled:
            return
        self._rows.sort(key=lambda row: (row.expert, row.slot))
        longest = max((row.position for row in self._rows), default=0)
        self._cache.reorder([row.slot for row in self._rows], longest)
        for slot, row in enumerate(self._rows):
            row.slot = slot
        groups = [list(rows) for _, rows in groupby(self._rows, key=lambda row: row.expert)]
        self._model.bind([Segment(len(rows), rows[0].weights) for rows in groups])
        self._settled = True

    def decode(self) -> list[tuple[Row, int | None]]:
        """The next token of each row; `None` where its expert is `unusable`."""
        self.settle()
        if not self._rows:
            return []
        positions = torch.tensor([row.position for row in self._rows])
        mask = self._cache.begin_decode(positions, max(row.position for row in self._rows))
        logits = self._model.forward(
            torch.tensor([row.token for row in self._rows])[:, None],
            positions=positions[:, None],
            mask=mask,
            cache=self._cache,
        )
        largest, indices = logits.max(dim=-1)
        greedy: list[int] = indices.tolist()
        usable: list[bool] = largest.isfinite().tolist()
        for i, row in enumerate(self._rows):
            row.position += 1
            if usable[i]:
                own = row.sampler.is_greedy
                row.token = greedy[i] if own else row.sampler.choose(logits[i, : row.weights.vocabulary])
        return [(row, row.token if ok else None) for row, ok in zip(self._rows, usable, strict=True)]


def unusable(expert: str) -> CheckpointError:
    """The error of an expert whose logits are no numbers: there is no token to choose from them."""
    return CheckpointError(
        f"the logits of {expert} must be finite, got infinite or missing numbers; its weights are damaged, or made "
        "for another base"
    )
