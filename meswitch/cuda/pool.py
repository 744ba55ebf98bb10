"""The base for ever, and experts as compressed deltas in slots beside it."""

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import replace

from meswitch.config import StoreConfig
from meswitch.core import BASE
from meswitch.cuda.copies import SegmentCopies, segment_copies
from meswitch.cuda.image import ImageSource
from meswitch.cuda.lease import CudaLease, always
from meswitch.cuda.pinned import PinnedArena
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.tiers import Tiers
from meswitch.cuda.whole_layout import WholeWeights

__all__ = ["CudaPool"]

READY_SHARE = 0.75
"""Of a delta, before a row joins others: the rest comes in the time in which even a short prompt gets through all
layers, so that rows that run wait for the prompt and not for the bus."""


class CudaPool(Tiers):
    """Slots of deltas, and the base that all rows compute with. Implements `meswitch.pool.Pool`.

    Args:
        base: all rows compute with it.
        sources: of the experts, without the base.
        slots: where deltas lie on the device.
        host: where they lie in host memory; closed with the pool.
        executor: fills host images.
        config: who makes room, and who never does; the base, which always stays, may be pinned too.
        copies: into the slots; made if absent, and closed with the pool.
        clock_ns: monotonic.

    Raises:
        CapacityError, UnknownExpertError: as `Tiers`.
    """

    def __init__(
        self,
        base: WholeWeights,
        sources: Mapping[str, ImageSource],
        *,
        slots: SlotArena,
        host: PinnedArena,
        executor: Executor,
        config: StoreConfig | None = None,
        copies: SegmentCopies | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        config = config or StoreConfig()
        segments = slots.layout.segments
        self._base = base
        self._arena = slots
        super().__init__(
            sources,
            slots=slots.slots,
            segments=len(segments),
            serving_segments=slots.layout.serving_segments,
            host=host,
            copies=copies or segment_copies(list(slots.memory), segments, device=slots.memory.device),
            executor=executor,
            config=replace(config, pinned=tuple(name for name in config.pinned if name != BASE)),
            ready_share=READY_SHARE,
            clock_ns=clock_ns,
        )

    @property
    def resident(self) -> Collection[str]:
        """The base, and experts that a row can be computed with, as `poll` found."""
        return [BASE, *super().resident]

    @property
    def weight_bytes(self) -> Mapping[str, int]:
        """Bytes of base and slots on the device, whatever the slots hold."""
        return {"base": self._base.nbytes, "slots": self._arena.nbytes}

    def request(self, expert: str, *, keep: Collection[str] = ()) -> bool:
        """Whether `expert` is resident or on its way; nothing in `keep` is evicted for it."""
        return expert == BASE or super().request(expert, keep=keep)

    def lease(self, expert: str) -> CudaLease:
        """The weights of a resident expert, which stays until `release`."""
        vocabulary = self._base.layout.shape.vocabulary
        if expert == BASE:
            return CudaLease(weights=self._base, slot=-1, vocabulary=vocabulary, wait=_wait_for_nothing)
        slot, wait, complete = self.hold(expert)
        # one plane has nothing more to come, however much of it is still on its way
        refined = complete if self._arena.layout.refinements else always
        return CudaLease(weights=self._base, slot=slot, vocabulary=vocabulary, wait=wait, refined=refined)

    def release(self, expert: str) -> None:
        """Give back one lease."""
        if expert != BASE:
            super().release(expert)

    def _complete(self, slot: int) -> None:
        self._arena.refine(slot)
        # that writes to the slot, and comes after the step that runs
        self._copies.mark_used(slot)


def _wait_for_nothing(segment: int) -> None:
    """The base is in place."""
