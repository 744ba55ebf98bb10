"""Copies of images from host memory into slots, segment by segment, beside whatever the device computes.

A stream of its own copies; an event after each segment lets the computing stream wait for that segment alone, so that
a prompt goes through the first layers while the last ones are on their way. On the CPU a copy is complete at once.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

__all__ = ["Copy", "SegmentCopies", "segment_copies"]

Segments = Sequence[tuple[int, int]]
"""First byte and the byte after the last one of each."""


class Copy(Protocol):
    """One image on its way into a slot, or there."""

    @property
    def complete(self) -> bool:
        """Whether all segments are in place."""

    @property
    def elapsed_ms(self) -> float | None:
        """Time between the start of the first segment and the end of the last; `None` until then, or if not timed."""

    def done_segments(self) -> int:
        """How many segments are in place: always the first ones."""

    def wait(self, segment: int) -> None:
        """Make the current stream wait until `segment` is in place; nothing to do once it is."""


class SegmentCopies(Protocol):
    """Starts copies into slots, and keeps them from overtaking what still reads a slot."""

    def start(self, slot: int, image: torch.Tensor) -> Copy:
        """Copy `image` into `slot`, behind the copies that run; `image` must stay as it is until that is complete.

        Raises:
            ValueError: if the last copy into `slot` is not complete.
        """

    def mark_used(self, slot: int) -> None:
        """The next copy into `slot` waits for all that the current stream was given so far."""

    def close(self) -> None:
        """Return when no copy runs any more."""


def segment_copies(destinations: Sequence[torch.Tensor], segments: Segments, *, device: torch.device) -> SegmentCopies:
    """Copies into `destinations`, `[nbytes]` uint8 on `device` for each slot."""
    if device.type == "cpu":
        return _HostCopies(destinations, segments)
    return _StreamCopies(destinations, segments, device)


class _Placed:
    """A copy that is complete."""

    complete = True
    elapsed_ms: float | None = None

    def __init__(self, segments: int) -> None:
        self._segments = segments

    def done_segments(self) -> int:
        """All."""
        return self._segments

    def wait(self, segment: int) -> None:
        """Nothing to wait for."""


class _HostCopies:
    """Copies that are complete when they have started."""

    def __init__(self, destinations: Sequence[torch.Tensor], segments: Segments) -> None:
        self._destinations = destinations
        self._segments = len(segments)

    def start(self, slot: int, image: torch.Tensor) -> Copy:
        """Copy `image` into `slot`."""
        self._destinations[slot].copy_(image)
        return _Placed(self._segments)

    def mark_used(self, slot: int) -> None:
        """Nothing: what the caller did before is done."""

    def close(self) -> None:
        """Nothing runs."""


class _StreamCopy:
    """A copy whose progress its events tell."""

    def __init__(self, events: Sequence[torch.cuda.Event], begin: torch.cuda.Event, device: torch.device) -> None:
        self._events = events
        self._begin = begin
        self._device = device
        self._done = 0
        self._elapsed_ms: float | None = None

    @property
    def complete(self) -> bool:
        """Whether all segments are in place."""
        return self.done_segments() == len(self._events)

    @property
    def elapsed_ms(self) -> float | None:
        """Time on the device between the two ends."""
        self.done_segments()
        return self._elapsed_ms

    def done_segments(self) -> int:
        """How many segments are in place."""
        # once all are, the events are not looked at again: they belong to the next copy into this slot
        while self._done < len(self._events) and _is_over(self._events[self._done]):
            self._done += 1
            if self._done == len(self._events):
                self._elapsed_ms = self._begin.elapsed_time(self._events[-1])
        return self._done

    def wait(self, segment: int) -> None:
        """Make the current stream wait for the segment's event."""
        if segment >= self.done_segments():
            torch.cuda.current_stream(self._device).wait_event(self._events[segment])


class _StreamCopies:
    """Copies in a stream of their own; every event is made at the start."""

    def __init__(self, destinations: Sequence[torch.Tensor], segments: Segments, device: torch.device) -> None:
        self._device = device
        self._segments = tuple(segments)
        self._pieces = [[memory[start:stop] for start, stop in segments] for memory in destinations]
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # the last segment's event tells the time as well
        last = len(self._segments) - 1
        self._events = [[_event(timed=i == last) for i in range(last + 1)] for _ in self._pieces]
        self._begins = [_event(timed=True) for _ in self._pieces]
        self._used = [_event(timed=False) for _ in self._pieces]
        self._copies: list[_StreamCopy | None] = [None for _ in self._pieces]
        # the driver makes an event when it is first recorded
        for slot, events in enumerate(self._events):
            for event in (*events, self._begins[slot], self._used[slot]):
                event.record(torch.cuda.current_stream(device))

    def start(self, slot: int, image: torch.Tensor) -> Copy:
        """Copy `image` into `slot` behind what still reads it."""
        last = self._copies[slot]
        if last is not None and not last.complete:
            raise ValueError(
                f"a slot must be complete before it is overwritten, slot {slot} has {last.done_segments()}"
            )
        copy = _StreamCopy(self._events[slot], self._begins[slot], self._device)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used[slot])
            self._begins[slot].record(self._stream)
            for piece, event, (start, stop) in zip(self._pieces[slot], self._events[slot], self._segments, strict=True):
                piece.copy_(image[start:stop], non_blocking=True)
                event.record(self._stream)
        self._copies[slot] = copy
        return copy

    def mark_used(self, slot: int) -> None:
        """Remember where the current stream is."""
        self._used[slot].record(torch.cuda.current_stream(self._device))

    def close(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()


def _event(*, timed: bool) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]


def _is_over(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]
