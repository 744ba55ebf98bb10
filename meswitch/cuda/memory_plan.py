"""What the memory of the GPU is for, settled from a budget before anything is allocated."""

from dataclasses import dataclass

from meswitch.errors import CapacityError

__all__ = ["MemoryPlan", "plan_memory"]

GIB = 1 << 30


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
