"""What a decode step reads of its rows: tensors that stay where they are, so that a CUDA graph can be replayed."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["RowState", "StepState"]

FIELDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RowState:
    """One row of a step.

    Attributes:
        token: the newest token, which the step computes at `position`.
        cache_row: where its keys and values are.
        slot: of its expert; -1 for the base.
        refined: whether all bit planes of the slot are in place.
        vocabulary: tokens that may be chosen.
        temperature: 0 is greedy.
        seed: of its own random numbers, 0 to 2^64 - 1.
    """

    token: int
    position: int
    cache_row: int
    slot: int
    refined: bool
    vocabulary: int
    temperature: float
    seed: int


class StepState:
    """The rows of a step of up to `rows` rows; a row that is not used has length 0 and cache row -1.

    Attributes:
        tokens, positions, seeds: `[B]` int64.
        lengths: positions that attention reads, the new one included, `[B]` int32.
        cache_rows, slots, refined, vocabulary: `[B]` int32; `refined` is -1 where a slot has its first plane only.
        temperature: `[B]` float32.
        chosen: the tokens that the last step chose, `[B]` int64; -1 where the logits were no numbers.
    """

    def __init__(self, rows: int, *, device: torch.device) -> None:
        self.tokens, self.positions, self.seeds, self.chosen = (
            torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(4)
        )
        self.lengths, self.cache_rows, self.slots, self.refined, self.vocabulary = (
            torch.full((rows,), fill, dtype=torch.int32, device=device) for fill in (0, -1, -1, -1, 1)
        )
        self.temperature = torch.zeros(rows, dtype=torch.float32, device=device)
        pinned = device.type == "cuda"
        self._packed = torch.zeros(FIELDS, rows, dtype=torch.int64, pin_memory=pinned)
        self._read = torch.zeros(rows, dtype=torch.int64, pin_memory=pinned)

    def first(self, rows: int) -> "StepState":
        """The same tensors, of the first `rows` rows only."""
        part = object.__new__(StepState)
        for name, value in self.__dict__.items():
            part.__dict__[name] = value[..., :rows]
        return part

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What a step changes."""
        return self.tokens, self.positions, self.lengths, self.chosen

    def load(self, rows: Sequence[RowState]) -> None:
        """Make these the first rows, and all others unused: one copy to the device."""
        capacity = self.tokens.shape[0]
        columns = [_pack(row) for row in rows] + [UNUSED] * (capacity - len(rows))
        self._packed.copy_(torch.tensor(columns, dtype=torch.int64).T)
        packed = self._packed.to(self.tokens.device, non_blocking=True)
        token, position, cache_row, slot, refined, vocabulary, temperature, seed = packed.unbind()
        self.tokens.copy_(token)
        self.positions.copy_(position)
        self.cache_rows.copy_(cache_row)
        self.slots.copy_(slot)
        self.refined.copy_(refined)
        self.vocabulary.copy_(vocabulary)
        self.temperature.copy_(temperature.int().view(torch.float32))
        self.seeds.copy_(seed)
        self.lengths.copy_((position + 1) * (cache_row >= 0))

    def advance(self) -> None:
        """Make the chosen tokens the newest ones, one position further; part of the step itself."""
        used = self.lengths > 0
        # a row without a number to choose from ends; until then it must still look up some token
        self.tokens.copy_(self.chosen.clamp(min=0))
        self.positions += used
        self.lengths += used

    def read(self, rows: int) -> list[int]:
        """The tokens that the last step chose, of the first rows: the one wait for the device in a step."""
        part = self._read[:rows]
        part.copy_(self.chosen[:rows], non_blocking=True)
        if part.is_pinned():
            torch.cuda.current_stream().synchronize()
        chosen: list[int] = part.tolist()
        return chosen


UNUSED = (0, 0, -1, -1, -1, 1, 0, 0)


def _pack(row: RowState) -> tuple[int, ...]:
    (temperature,) = struct.unpack("<i", struct.pack("<f", row.temperature))
    seed = row.seed - (1 << 64) if row.seed >= 1 << 63 else row.seed
    refined = row.slot if row.refined else -1
    return row.token, row.position, row.cache_row, row.slot, refined, row.vocabulary, temperature, seed
