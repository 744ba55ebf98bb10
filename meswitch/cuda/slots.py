"""The slots of all experts on one device: one byte image each, seen as the tensors that kernels index by slot."""

import torch

from meswitch.cuda.slot_layout import MatrixPart, SlotLayout, VectorPart
from meswitch_kernels.arena import DeltaArena
from meswitch_kernels.sparse_arena import SparseArena

__all__ = ["SlotArena"]


class SlotArena:
    """E images of one layout, allocated once.

    Args:
        layout: of every image.
        slots: E.
        device: where.
    """

    def __init__(self, layout: SlotLayout, *, slots: int, device: torch.device) -> None:
        self.layout = layout
        # zeros: a slot that nothing was copied into has steps of zero, so it is the base and not garbage
        self.memory = torch.zeros(slots, layout.nbytes, dtype=torch.uint8, device=device)

    @property
    def slots(self) -> int:
        """E."""
        return self.memory.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return self.memory.numel()

    def matrix(self, part: MatrixPart) -> DeltaArena | SparseArena:
        """The codes of `part` in every slot; views, strided over slots."""
        N, S, G, E = part.N, part.code.salient, part.groups, self.slots
        codes = self._view(part.codes, 4 * part.code.keep * N * part.words, torch.int32)
        steps = self._steps(part)
        index = self._view(part.index, 4 * G * S, torch.int32)
        index = index.view(E, G, S) if G > 1 else index
        values = self._view(part.values, 2 * N * S, torch.float16).view(E, N, S)
        if part.code.group == 1:
            return DeltaArena(
                codes=codes.view(E, N, part.words),
                steps=steps,
                salient_index=index,
                salient_values=values,
                bits=int(part.code.bits),
                K=part.K,
            )
        planes = (part.code.keep,) if part.code.keep > 1 else ()
        signs = self._view(part.signs, 2 * part.code.keep * N * part.sign_units, torch.int16)
        return SparseArena(
            codes=codes.view(E, *planes, N, part.words),
            signs=signs.view(E, *planes, N, part.sign_units),
            steps=steps,
            salient_index=index,
            salient_values=values,
            group=part.code.group,
            K=part.K,
        )

    def vectors(self, part: VectorPart) -> torch.Tensor:
        """The vectors of `part` in every slot, side by side: `[E, n]` float32; views, strided over slots."""
        return self._view(part.offset, part.end - part.offset, torch.float32)

    def refine(self, slot: int) -> None:
        """Make the first plane of one slot the upper half of both: its step is twice that of the refinement.

        For the current stream, which orders it between steps. The refinement must be in place.
        """
        for first, second in zip(self.layout.layers, self.layout.refinements, strict=bool(self.layout.refinements)):
            for key, part in second.items():
                upper = first[key]
                assert isinstance(upper, MatrixPart)
                torch.mul(self._steps(part)[slot], 2, out=self._steps(upper)[slot])

    def segment(self, slot: int, index: int) -> torch.Tensor:
        """The bytes of one segment of one slot, `[n]` uint8."""
        start, stop = self.layout.segments[index]
        return self.memory[slot, start:stop]

    def _steps(self, part: MatrixPart) -> torch.Tensor:
        return self._view(part.steps, 4 * part.N, torch.float32)

    def _view(self, offset: int, nbytes: int, dtype: torch.dtype) -> torch.Tensor:
        return self.memory[:, offset : offset + nbytes].view(dtype)
