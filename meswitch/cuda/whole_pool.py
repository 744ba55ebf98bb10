"""Whole models in buffers of the device, the base being one more of them: the baseline that deltas are compared with.

It is the same machinery as for deltas, so that nothing but the bytes makes the difference: with two buffers or more,
the next model is copied while another computes, and a model's first layers compute while its last ones are on their
way.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

from meswitch.config import StoreConfig
from meswitch.cuda.copies import SegmentCopies, segment_copies
from meswitch.cuda.image import ImageSource
from meswitch.cuda.lease import CudaLease
from meswitch.cuda.pinned import PinnedArena
from meswitch.cuda.tiers import Tiers
from meswitch.cuda.whole_layout import WholeWeights

__all__ = ["WholeCudaPool"]

READY_SHARE = 0.9
"""Of a model, before a row joins others: a layer of it takes ten times as long to come as to compute."""


class WholeCudaPool(Tiers):
    """Buffers that hold a whole model each. Implements `meswitch.pool.Pool`.

    Args:
        buffers: of one layout, at least one.
        sources: of all models, the base among them.
        host: where models lie in host memory; closed with the pool. With a single image or two, almost every switch
            reads its file again.
        executor: fills host images.
        config: who makes room, and who never does.
        copies: into the buffers; made if absent, and closed with the pool.
        clock_ns: monotonic.

    Raises:
        CapacityError, UnknownExpertError: as `Tiers`.
    """

    def __init__(
        self,
        buffers: Sequence[WholeWeights],
        sources: Mapping[str, ImageSource],
        *,
        host: PinnedArena,
        executor: Executor,
        config: StoreConfig | None = None,
        copies: SegmentCopies | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._buffers = tuple(buffers)
        memories, segments = [buffer.memory for buffer in buffers], buffers[0].layout.segments
        super().__init__(
            sources,
            slots=len(memories),
            segments=len(segments),
            serving_segments=len(segments),
            host=host,
            copies=copies or segment_copies(memories, segments, device=memories[0].device),
            executor=executor,
            config=config or StoreConfig(),
            ready_share=READY_SHARE,
            clock_ns=clock_ns,
        )

    @property
    def weight_bytes(self) -> Mapping[str, int]:
        """Bytes of all buffers on the device, whatever they hold."""
        return {"experts": sum(buffer.nbytes for buffer in self._buffers)}

    def lease(self, expert: str) -> CudaLease:
        """The weights of a resident model, which stays until `release`."""
        slot, wait, _ = self.hold(expert)
        weights = self._buffers[slot]
        return CudaLease(weights=weights, slot=-1, vocabulary=weights.layout.shape.vocabulary, wait=wait)
