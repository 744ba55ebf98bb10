"""A model of random weights on the GPU, for what measures its computation without an engine around it."""

from dataclasses import dataclass

import torch

from harness.errors import UsageError
from meswitch.config import SyntheticConfig
from meswitch.cuda.base_weights import random_base
from meswitch.cuda.decoder import Decoder, rotary_tables
from meswitch.cuda.kv_cache import KvCache, kv_bytes
from meswitch.cuda.memory_plan import MemoryPlan, plan_memory
from meswitch.cuda.slot_layout import SlotLayout
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.synthetic_image import SyntheticImageSource, synthetic_layout
from meswitch.cuda.whole_layout import WholeLayout, whole_layout
from meswitch.cuda.workspace import context_bytes, workspace_bytes
from meswitch.families import ShapeFamily

__all__ = ["Layouts", "RandomModel", "Room", "check_window", "model_layouts", "plan_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """The bytes of the model: of the base, and of each expert; no `slot` where no case has experts."""

    whole: WholeLayout
    slot: SlotLayout | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much of everything there is beside the base.

    Attributes:
        experts: in slots.
        rows, tokens: of keys and values.
        chunk_tokens: of prompts, at most, that are computed together.
    """

    experts: int
    rows: int
    tokens: int
    chunk_tokens: int


class RandomModel:
    """Base, experts, and keys and values that are numbers already, as they would be after a prompt.

    Args:
        family: whose shape it has.
        layouts: of base and experts.
        room: how many of the latter, and of rows and tokens.
        seed: of everything.
        device: where everything is allocated, and filled.

    Attributes:
        base: the weights that all share.
        vocabulary: tokens there are.
    """

    def __init__(self, family: ShapeFamily, layouts: Layouts, room: Room, *, seed: int, device: torch.device) -> None:
        self._shape = family.shape
        self.vocabulary = family.shape.vocabulary
        self.base = random_base(layouts.whole, seed=seed, device=device)
        self._slots: SlotArena | None = None
        if layouts.slot is not None:
            self._slots = SlotArena(layouts.slot, slots=room.experts, device=device)
            for slot, name in enumerate(family.experts(room.experts)):
                SyntheticImageSource(layouts.slot, seed=seed, name=name).fill(self._slots.memory[slot])
        self._cache = KvCache(
            family.shape, rows=room.rows, tokens=room.tokens, dtype=layouts.whole.dtype, device=device
        )
        for held in (self._cache.keys, self._cache.values):
            held.normal_(generator=torch.Generator(device).manual_seed(seed))
        self._rotary = rotary_tables(family.config, positions=room.tokens, device=device)

    def decoder(self, *, has_experts: bool) -> Decoder:
        """What computes with the base and the experts, if there are any, or with the base alone."""
        return Decoder(self._shape, self.base, self._slots if has_experts else None, self._cache, self._rotary)


def model_layouts(family: ShapeFamily, synthetic: SyntheticConfig, *, dtype: str, has_experts: bool) -> Layouts:
    """The layouts of base and experts.

    Raises:
        DeltaError, UnsupportedModelError: no kernel covers a codec.
    """
    slot = synthetic_layout(synthetic, family.shape) if has_experts else None
    return Layouts(whole=whole_layout(family.shape, getattr(torch, dtype)), slot=slot)


def plan_model(family: ShapeFamily, layouts: Layouts, room: Room, device: torch.device) -> MemoryPlan:
    """The memory plan of a model with so much room, within what is free on the device.

    Raises:
        CapacityError: it does not fit.
    """
    shape, dtype = family.shape, layouts.whole.dtype
    context = context_bytes(device)
    return plan_memory(
        torch.cuda.mem_get_info(device)[0] + context,
        base_bytes=layouts.whole.nbytes,
        slot_bytes=layouts.slot.nbytes if layouts.slot is not None else 0,
        wanted_slots=room.experts,
        kv_bytes=kv_bytes(shape, rows=room.rows, tokens=room.tokens, dtype=dtype),
        workspace_bytes=workspace_bytes(
            shape, dtype, max_rows=room.rows, chunk_tokens=room.chunk_tokens, context_tokens=room.tokens
        ),
        context_bytes=context,
        least_slots=room.experts,
    )


def check_window(family: ShapeFamily, tokens: int, *, options: str) -> None:
    """Nothing, if attention never has to forget a position of a row of `tokens`.

    Args:
        family: of the model.
        tokens: of the longest row.
        options: that make it so long, as a message names them.

    Raises:
        UsageError: it would have to.
    """
    window = family.shape.window
    if window is not None and tokens > window:
        raise UsageError(
            f"{options} together must be at most the sliding window of {family.name}, {window}, got {tokens}"
        )
