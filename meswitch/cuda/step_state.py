"""What a decode step reads of its rows: tensors that stay where they are, so that a CUDA graph can be replayed."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

__all__ = ["RowState", "StepState", "StepTensors"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTensors:
    """What a step reads and writes; a row that is not used has length 0 and cache row -1.

    Attributes:
        tokens, positions, seeds: `[B]` int64.
        lengths: positions that attention reads, the new one included, `[B]` int32.
        cache_rows, slots, refined, vocabulary: `[B]` int32; `refined` is -1 where a slot has its first plane only.
        temperature: `[B]` float32.
        chosen: the tokens that the last step chose, `[B]` int64; -1 where the logits were no numbers.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    seeds: torch.Tensor
    lengths: torch.Tensor
    cache_rows: torch.Tensor
    slots: torch.Tensor
    refined: torch.Tensor
    vocabulary: torch.Tensor
    temperature: torch.Tensor
    chosen: torch.Tensor

    def first(self, rows: int) -> "StepTensors":
        """Views of the first `rows` rows."""
        return StepTensors(**{field.name: getattr(self, field.name)[:rows] for field in fields(self)})

    def advance(self) -> None:
        """Make the chosen tokens the newest ones, one position further; part of the step itself."""
        used = self.lengths > 0
        # a row without a number to choose from ends; until then it must still look up some token
        self.tokens.copy_(self.chosen.clamp(min=0))
        self.positions.add_(used)
        self.lengths.add_(used)


class StepState:
    """The rows of a step of up to `rows` rows: filled from the host, and read by it.

    Attributes:
        tensors: on the device.
    """

    def __init__(self, rows: int, *, device: torch.device) -> None:
        def full(value: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.full((rows,), value, dtype=dtype, device=device)

        self.tensors = StepTensors(
            tokens=full(0, torch.int64),
            positions=full(0, torch.int64),
            seeds=full(0, torch.int64),
            lengths=full(0, torch.int32),
            cache_rows=full(-1, torch.int32),
            slots=full(-1, torch.int32),
            refined=full(-1, torch.int32),
            vocabulary=full(1, torch.int32),
            temperature=full(0, torch.float32),
            chosen=full(0, torch.int64),
        )
        pinned = device.type == "cuda"
        self._packed = torch.zeros(len(UNUSED), rows, dtype=torch.int64, pin_memory=pinned)
        self._read = torch.zeros(rows, dtype=torch.int64, pin_memory=pinned)

    def load(self, rows: Sequence[RowState]) -> None:
        """Make these the first rows, and all others unused: one copy to the device."""
        into = self.tensors
        columns = [_pack(row) for row in rows] + [UNUSED] * (into.tokens.shape[0] - len(rows))
        self._packed.copy_(torch.tensor(columns, dtype=torch.int64).T)
        packed = self._packed.to(into.tokens.device, non_blocking=True)
        token, position, cache_row, slot, refined, vocabulary, temperature, seed = packed.unbind()
        into.tokens.copy_(token)
        into.positions.copy_(position)
        into.cache_rows.copy_(cache_row)
        into.slots.copy_(slot)
        into.refined.copy_(refined)
        into.vocabulary.copy_(vocabulary)
        into.temperature.copy_(temperature.int().view(torch.float32))
        into.seeds.copy_(seed)
        into.lengths.copy_((position + 1) * (cache_row >= 0))

    def read(self, rows: int) -> list[int]:
        """The tokens that the last step chose, of the first rows: the one wait for the device in a step."""
        part = self._read[:rows]
        part.copy_(self.tensors.chosen[:rows], non_blocking=True)
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
