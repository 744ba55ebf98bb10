"""Sources and copies whose progress a test decides. No test lives here."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from meswitch.errors import DeltaFormatError

SEGMENTS = ((0, 8), (8, 16), (16, 24), (24, 32))
NBYTES = 32


@dataclass
class FakeSource:
    """An image of one repeated byte, unless its file is damaged or the machine has an error."""

    value: int
    damaged: bool = False
    error: Exception | None = None
    fills: int = 0
    nbytes: int = NBYTES
    read_bytes: int = 20

    def fill(self, image: torch.Tensor) -> None:
        self.fills += 1
        # a read that fails has written something already
        image.fill_(0xEE)
        if self.error is not None:
            raise self.error
        if self.damaged:
            raise DeltaFormatError(f"file {self.value} is damaged")
        image.fill_(self.value)


@dataclass
class FakeCopy:
    """A copy of which as many segments are in place as a test has said."""

    destination: torch.Tensor
    image: torch.Tensor
    segments: Sequence[tuple[int, int]] = SEGMENTS
    done: int = 0
    waited: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.done == len(self.segments)

    @property
    def elapsed_ms(self) -> float | None:
        return 1.5 if self.complete else None

    def done_segments(self) -> int:
        return self.done

    def wait(self, segment: int) -> None:
        self.waited.append(segment)

    def advance(self, segments: int = 1) -> None:
        """Bring so many more segments; what is in the host's image *now* arrives."""
        for start, stop in self.segments[self.done : self.done + segments]:
            self.destination[start:stop] = self.image[start:stop]
        self.done = min(self.done + segments, len(self.segments))


class FakeCopies:
    """Copies that go on only when told to, one after the other."""

    def __init__(self, destinations: Sequence[torch.Tensor], segments: Sequence[tuple[int, int]] = SEGMENTS) -> None:
        self.destinations = destinations
        self.segments = segments
        self.started: list[FakeCopy] = []
        self.slots: list[int] = []
        self.used: list[int] = []
        self.closed = 0
        self.broken = False

    def start(self, slot: int, image: torch.Tensor) -> FakeCopy:
        if self.broken:
            raise RuntimeError("the device is gone")
        copy = FakeCopy(self.destinations[slot], image, self.segments)
        self.started.append(copy)
        self.slots.append(slot)
        # the old content goes as soon as the new is on its way
        self.destinations[slot].zero_()
        return copy

    def mark_used(self, slot: int) -> None:
        self.used.append(slot)

    def close(self) -> None:
        self.closed += 1

    def finish(self) -> None:
        """Complete all copies."""
        for copy in self.started:
            copy.advance(len(self.segments))
