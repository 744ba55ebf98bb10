"""Tiers of fakes, and the memory behind them. No test lives here."""

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import torch

from meswitch.config import StoreConfig
from meswitch.core import SwitchSpan
from meswitch.cuda.copies import segment_copies
from meswitch.cuda.pinned import PinnedArena
from meswitch.cuda.tiers import Tiers
from meswitch.store import Loaded, LoadFailed
from tests.meswitch.cuda.delta_experts import CPU
from tests.meswitch.cuda.tier_fakes import NBYTES, SEGMENTS, FakeCopies, FakeSource
from tests.meswitch.serving_models import InlineExecutor


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def sources(names: str) -> dict[str, FakeSource]:
    return {name: FakeSource(value) for value, name in enumerate(names, start=1)}


class Bench:
    """Tiers of fakes, and the memory behind them."""

    def __init__(
        self,
        given: Mapping[str, FakeSource],
        *,
        slots: int = 2,
        images: int = 4,
        executor: Executor | None = None,
        serving_segments: int = len(SEGMENTS),
        real_copies: bool = False,
        **config: Any,
    ) -> None:
        self.sources = given
        self.memory = torch.zeros(slots, NBYTES, dtype=torch.uint8)
        self.copies = FakeCopies(list(self.memory))
        self.clock = Clock()
        self.tiers = Tiers(
            given,
            slots=slots,
            segments=len(SEGMENTS),
            serving_segments=serving_segments,
            host=PinnedArena(NBYTES, images=images, device=CPU),
            copies=segment_copies(list(self.memory), SEGMENTS, device=CPU) if real_copies else self.copies,
            executor=executor or InlineExecutor(),
            config=StoreConfig(**config),
            ready_share=0.5,
            clock_ns=self.clock,
        )

    def poll(self) -> list[Loaded | LoadFailed]:
        ended = self.tiers.poll()
        self.tiers.check_integrity()
        return ended

    def to_host(self, names: str) -> None:
        """Bring experts into host memory without a slot."""
        for name in names:
            assert self.tiers.request(name)
            self.poll()

    def bring(self, name: str, *, keep: str = "") -> SwitchSpan:
        """Bring an expert into a slot, whole."""
        started = len(self.copies.started)
        assert self.tiers.request(name, keep=keep)
        if len(self.copies.started) == started:
            # it comes from the disk first
            self.poll()
            assert self.tiers.request(name, keep=keep)
        self.copies.finish()
        (loaded,) = self.poll()
        assert isinstance(loaded, Loaded)
        return loaded.span

    def content(self, name: str) -> list[int]:
        slot, _, _ = self.tiers.hold(name)
        self.tiers.release(name)
        found: list[int] = self.memory[slot].unique().tolist()
        return found
