"""The rows that run on a GPU: prompts enter in chunks, and all rows advance together by one token a step."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from meswitch.core import SamplingParams
from meswitch.cuda.lease import CudaLease
from meswitch.cuda.runners import Runners
from meswitch.cuda.step_state import RowState
from meswitch.cuda.whole_layout import WholeWeights

__all__ = ["CudaBatch", "CudaRow"]


@dataclass(slots=True, kw_only=True, eq=False)
class CudaRow:
    """One running request: `position` is where its newest token, `token`, will be computed."""

    expert: str
    weights: CudaLease
    sampling: SamplingParams
    seed: int
    cache_row: int = -1
    token: int = -1
    position: int = 0
    prompt: Sequence[int] = field(default_factory=tuple)
    is_refined: bool = True

    def state(self) -> RowState:
        """What a step reads of it."""
        return RowState(
            token=self.token,
            position=self.position,
            cache_row=self.cache_row,
            slot=self.weights.slot,
            refined=self.is_refined,
            vocabulary=self.weights.vocabulary,
            temperature=self.sampling.temperature,
            seed=self.seed,
        )


class CudaBatch:
    """Rows of any experts. Rows of one set of whole weights advance in one step; the base is one such set.

    Args:
        runners_of: what runs with a set of whole weights.
        max_rows: rows of the key-value cache.
        max_tokens: tokens of each.
        chunk_tokens: of prompts, computed between two tokens of the running rows.
        device: where.

    Attributes:
        first_plane_tokens: output tokens that were computed before their expert's second bit plane was in place.
    """

    def __init__(
        self,
        runners_of: Callable[[WholeWeights], Runners],
        *,
        max_rows: int,
        max_tokens: int,
        chunk_tokens: int,
        device: torch.device,
    ) -> None:
        self._runners_of = runners_of
        self._chunk_tokens = chunk_tokens
        self._free = list(range(max_rows))
        self._waiting: deque[CudaRow] = deque()
        self._running: dict[Runners, list[CudaRow]] = {}
        self._changed: set[Runners] = set()
        # first tokens that no call of `decode` has returned yet
        self._chosen: list[tuple[CudaRow, int | None]] = []
        # prompts travel once, without a wait: from a row of pinned memory to a row of the device's
        self._prompts = torch.zeros(max_rows, max_tokens, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._uploaded = torch.zeros(max_rows, max_tokens, dtype=torch.int64, device=device)
        self.first_plane_tokens = 0

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(rows) for rows in self._running.values())

    @property
    def free_rows(self) -> int:
        """Rows that can be added."""
        return len(self._free)

    def new_row(self, expert: str, weights: CudaLease, sampling: SamplingParams) -> CudaRow:
        """A row of a request, not in the batch yet; without a seed it draws one."""
        seed = sampling.seed if sampling.seed is not None else int(torch.empty((), dtype=torch.int64).random_())
        return CudaRow(expert=expert, weights=weights, sampling=sampling, seed=seed)

    def add(self, row: CudaRow, token_ids: Sequence[int]) -> None:
        """Take `row` in; its prompt is computed by the next calls of `decode`, which give its first token too."""
        row.cache_row = self._free.pop()
        row.prompt = token_ids
        host, length = self._prompts[row.cache_row], len(token_ids)
        host[:length] = torch.tensor(token_ids)
        self._uploaded[row.cache_row, :length].copy_(host[:length], non_blocking=True)
        self._waiting.append(row)

    def discard(self, row: CudaRow) -> None:
        """Take `row` out if it is in; its place in the cache is free at once."""
        if row.cache_row < 0:
            return
        if row in self._waiting:
            self._waiting.remove(row)
        self._chosen = [(chosen, token) for chosen, token in self._chosen if chosen is not row]
        for runners, rows in self._running.items():
            if row in rows:
                rows.remove(row)
                self._changed.add(runners)
        self._free.append(row.cache_row)
        row.cache_row = -1

    def settle(self) -> None:
        """Nothing: rows never move."""

    @torch.inference_mode()
    def decode(self) -> list[tuple[CudaRow, int | None]]:
        """The next token of each row that has one; `None` where its expert's logits are no numbers.

        Where a prompt fails, no token is lost: the first ones of prompts before it are what the next call returns.
        """
        if self._chosen:
            return self._take_chosen()
        launched = [(runners, list(rows)) for runners, rows in self._running.items() if rows]
        for runners, rows in launched:
            if _refine(rows) or runners in self._changed:
                runners.steps.load([row.state() for row in rows])
                self._changed.discard(runners)
            runners.steps.launch()
        try:
            self._prefill()
        except BaseException:
            # the step's tokens are not taken: it is computed again from what the rows say
            self._changed.update(runners for runners, _ in launched)
            raise
        results = self._take_chosen()
        for runners, rows in launched:
            for row, token in zip(rows, runners.steps.read(), strict=True):
                row.position += 1
                row.token = token
                self.first_plane_tokens += not row.is_refined
                results.append((row, token if token >= 0 else None))
        return results

    def _take_chosen(self) -> list[tuple[CudaRow, int | None]]:
        chosen, self._chosen = self._chosen, []
        return chosen

    def _prefill(self) -> None:
        """Compute up to a chunk of the waiting prompts, and choose the first tokens of those that are complete."""
        left = self._chunk_tokens
        while self._waiting and left > 0:
            row = self._waiting[0]
            count = min(left, len(row.prompt) - row.position)
            left -= count
            self._prefill_chunk(row, count)
            if row.position < len(row.prompt):
                continue
            self._waiting.popleft()
            row.token = self._first_token(row)
            self.first_plane_tokens += not row.is_refined
            if row.token >= 0:
                runners = self._runners_of(row.weights.weights)
                self._running.setdefault(runners, []).append(row)
                self._changed.add(runners)
            self._chosen.append((row, row.token if row.token >= 0 else None))

    def _prefill_chunk(self, row: CudaRow, count: int) -> None:
        chunk = self._uploaded[row.cache_row, row.position : row.position + count]
        lease = row.weights
        row.is_refined = lease.refined()
        self._runners_of(lease.weights).prompts.run(
            chunk,
            start=row.position,
            cache_row=row.cache_row,
            slot=lease.slot,
            wait=lease.wait,
            refined=row.is_refined,
        )
        row.position += count

    def _first_token(self, row: CudaRow) -> int:
        # the newest token is the prompt's last one: that is where the chosen one comes from
        newest = replace(row.state(), token=row.prompt[-1], position=row.position - 1)
        return self._runners_of(row.weights.weights).prompts.first_token(newest, wait=row.weights.wait)


def _refine(rows: Sequence[CudaRow]) -> bool:
    """Whether a second bit plane has come for one of `rows`, which use it from now on."""
    came = [row for row in rows if not row.is_refined and row.weights.refined()]
    for row in came:
        row.is_refined = True
    return bool(came)
