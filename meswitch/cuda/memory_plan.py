"""What the memory of the GPU is for, settled from a budget before anything is allocated."""

from dataclasses import dataclass

import torch

from meswitch.cuda.decoder_shape import DecoderShape
from meswitch.errors import CapacityError

__all__ = ["DEFAULT_CONTEXT_BYTES", "MemoryPlan", "context_bytes", "plan_memory", "workspace_bytes"]

GIB = 1 << 30
MIB = 1 << 20

DEFAULT_CONTEXT_BYTES = 600 * MIB
"""What a CUDA context takes where the driver does not say; an H100's takes about as much."""

LIBRARY_BYTES = 256 * MIB
"""Machine code of the vendor's library and of our kernels, which a first call of each loads."""

PRODUCT_BYTES = 32 * MIB
"""What the vendor's library keeps for itself on each stream: one computes, and one captures graphs."""

SLACK_BYTES = 64 * MIB
"""PyTorch takes memory in pieces of 2 to 20 MiB, and the last ones are never full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on the device.

    Attributes:
        budget_bytes: that may be taken.
        context_bytes: of the CUDA context, before anything is allocated.
        base_bytes: of the base.
        slots: experts that have a place; whole models where those are swapped.
        slot_bytes: of each.
        kv_bytes: of keys and values.
        workspace_bytes: of activations, scratch and libraries, at most.
    """

    budget_bytes: int
    context_bytes: int
    base_bytes: int
    slots: int
    slot_bytes: int
    kv_bytes: int
    workspace_bytes: int

    @property
    def planned_bytes(self) -> int:
        """What will be taken."""
        fixed = self.context_bytes + self.base_bytes + self.kv_bytes + self.workspace_bytes
        return fixed + self.slots * self.slot_bytes

    @property
    def rest_bytes(self) -> int:
        """What stays free."""
        return self.budget_bytes - self.planned_bytes

    def lines(self, *, noun: str = "slots") -> tuple[str, ...]:
        """The plan as a table, one line an entry, in GiB; `noun` says what a slot holds."""
        entries = (
            ("CUDA context", self.context_bytes, ""),
            ("base", self.base_bytes, ""),
            (f"{self.slots} {noun}", self.slots * self.slot_bytes, f"{self.slot_bytes / GIB:.2f} each"),
            ("keys and values", self.kv_bytes, ""),
            ("workspace", self.workspace_bytes, "at most"),
            ("rest", self.rest_bytes, ""),
        )
        head = f"memory budget {self.budget_bytes / GIB:.2f} GiB"
        return head, *(f"  {name:18}{size / GIB:8.2f}  {note}".rstrip() for name, size, note in entries if size)


def plan_memory(
    budget_bytes: int,
    *,
    base_bytes: int,
    slot_bytes: int,
    wanted_slots: int,
    kv_bytes: int,
    workspace_bytes: int,
    context_bytes: int,
    least_slots: int = 1,
) -> MemoryPlan:
    """The plan with as many slots as fit, and no more than are wanted.

    Args:
        budget_bytes: what everything together may take.
        base_bytes, kv_bytes, workspace_bytes, context_bytes: what is taken whatever the number of slots.
        slot_bytes: of one slot.
        wanted_slots: how many there are experts for.
        least_slots: with fewer, nothing starts: 1, the number of pinned experts, or what a user asked for.

    Raises:
        CapacityError: fewer than `least_slots` fit.
    """
    fixed = context_bytes + base_bytes + kv_bytes + workspace_bytes
    fitting = max(budget_bytes - fixed, 0) // slot_bytes if slot_bytes else wanted_slots
    needed = min(least_slots, wanted_slots)
    if budget_bytes < fixed or fitting < needed:
        raise CapacityError(
            f"memory_budget_bytes must hold context {context_bytes} + base {base_bytes} + {needed} x {slot_bytes} for "
            f"experts + keys and values {kv_bytes} + workspace {workspace_bytes} = {fixed + needed * slot_bytes} bytes "
            f"({(fixed + needed * slot_bytes) / GIB:.2f} GiB), got {budget_bytes} ({budget_bytes / GIB:.2f} GiB): "
            f"{fitting} fit; raise the budget, or lower rows, context or slots"
        )
    return MemoryPlan(
        budget_bytes=budget_bytes,
        context_bytes=context_bytes,
        base_bytes=base_bytes,
        slots=min(wanted_slots, fitting),
        slot_bytes=slot_bytes,
        kv_bytes=kv_bytes,
        workspace_bytes=workspace_bytes,
    )


def workspace_bytes(
    shape: DecoderShape, dtype: torch.dtype, *, max_rows: int, chunk_tokens: int, context_tokens: int
) -> int:
    """What computing takes beside weights, keys and values, at most.

    Args:
        shape: of the decoder.
        dtype: of weights and activations.
        max_rows: of a decode step.
        chunk_tokens: of a prompt, computed together.
        context_tokens: of one request.
    """
    size = dtype.itemsize
    # `W + D̂` of the largest stacked matrix, where prefill forms it
    merged = max(2 * shape.F, shape.qkv_rows) * shape.K * size
    logits = max_rows * shape.vocabulary * (size + 4)
    prefill = _activation_bytes(shape, size, chunk_tokens) + _attention_bytes(shape, size, chunk_tokens, context_tokens)
    # a step writes its activations twice: as they are, and as the integers that codes are multiplied by
    step = 2 * _activation_bytes(shape, size, max_rows)
    return merged + logits + max(prefill, step) + 2 * PRODUCT_BYTES + LIBRARY_BYTES + SLACK_BYTES


def context_bytes(device: torch.device) -> int:
    """What the device's memory holds before we allocate: our CUDA context, and whatever else runs there.

    0 on a CPU. `DEFAULT_CONTEXT_BYTES` where the driver does not say.
    """
    if device.type != "cuda":
        return 0
    # the first call makes the context
    torch.zeros(1, device=device)
    free, total = torch.cuda.mem_get_info(device)
    taken = total - free - torch.cuda.memory_reserved(device)
    return taken if taken > 0 else DEFAULT_CONTEXT_BYTES


def _activation_bytes(shape: DecoderShape, size: int, tokens: int) -> int:
    """The most that lives together in a layer: the stream, its norm, and either q/k/v with heads or the gate."""
    attention = shape.qkv_rows + 2 * shape.q_rows + shape.K
    gated = 3 * shape.F + shape.K
    return tokens * size * (2 * shape.K + max(attention, gated))


def _attention_bytes(shape: DecoderShape, size: int, tokens: int, context_tokens: int) -> int:
    """A mask in two forms, and keys and values repeated for every head, which the library does with a mask."""
    return tokens * context_tokens * (1 + size) + 2 * context_tokens * shape.q_rows * size
