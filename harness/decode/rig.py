"""A model of random weights on the GPU that runs any of the measured decode steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from harness.decode.case import DecodeCase
from harness.decode.options import DecodeOptions
from meswitch.cuda.base_weights import random_base
from meswitch.cuda.decoder import Decoder, rotary_tables
from meswitch.cuda.graphs import GraphPool
from meswitch.cuda.kv_cache import KvCache, kv_bytes
from meswitch.cuda.memory_plan import MemoryPlan, plan_memory
from meswitch.cuda.slot_layout import SlotLayout
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.step_runner import StepRunner
from meswitch.cuda.step_state import RowState
from meswitch.cuda.synthetic_image import SyntheticImageSource, synthetic_layout
from meswitch.cuda.whole_layout import WholeLayout, whole_layout
from meswitch.cuda.workspace import context_bytes, workspace_bytes
from meswitch.families import ShapeFamily

__all__ = ["DecodeRig", "Layouts", "Rig", "build_decode", "decode_layouts", "plan_decode"]


class Rig(Protocol):
    """What a measurement needs of a model."""

    def load(self, case: DecodeCase, *, steps: int) -> Callable[[], None]:
        """What runs one step of `case`; each call is one token further, and `steps` of them read the case's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """The bytes of the model: of the base, and of each expert; no `slot` where no case has experts."""

    whole: WholeLayout
    slot: SlotLayout | None


class DecodeRig:
    """The decoder with the experts in their slots, and the same base alone.

    Args:
        family: whose shape it has.
        options: of the measurement.
        layouts: of base and experts.
        device: where everything is allocated, and filled with random numbers.
    """

    def __init__(self, family: ShapeFamily, options: DecodeOptions, layouts: Layouts, device: torch.device) -> None:
        shape, seed = family.shape, options.synthetic.seed
        self._vocabulary = shape.vocabulary
        base = random_base(layouts.whole, seed=seed, device=device)
        slots = _random_slots(family, options, layouts.slot, device) if layouts.slot is not None else None
        cache = KvCache(
            shape, rows=options.max_rows, tokens=options.cache_tokens, dtype=layouts.whole.dtype, device=device
        )
        # what attention reads must be numbers, as it would be after a prompt
        for held in (cache.keys, cache.values):
            held.normal_(generator=torch.Generator(device).manual_seed(seed))
        rotary = rotary_tables(family.config, positions=cache.tokens, device=device)
        graphs = GraphPool(device) if device.type == "cuda" else None
        self._base_only, self._mixed = (
            StepRunner(
                Decoder(shape, base, held, cache, rotary), max_rows=options.max_rows, device=device, graphs=graphs
            )
            for held in (None, slots)
        )

    def load(self, case: DecodeCase, *, steps: int) -> Callable[[], None]:
        """What runs one step of `case`."""
        runner = self._mixed if case.E else self._base_only
        # the newest token attends to itself, too: the lengths of the steps lie around the case's context
        position = case.context - (steps + 1) // 2
        runner.load(
            [
                RowState(
                    token=row % self._vocabulary,
                    position=position,
                    cache_row=row,
                    slot=slot,
                    refined=True,
                    vocabulary=self._vocabulary,
                    temperature=0.0,
                    seed=0,
                )
                for row, slot in enumerate(case.slots)
            ]
        )
        return runner.launch


def decode_layouts(family: ShapeFamily, options: DecodeOptions) -> Layouts:
    """The layouts of base and experts.

    Raises:
        DeltaError, UnsupportedModelError: no kernel covers a codec.
    """
    slot = synthetic_layout(options.synthetic, family.shape) if options.experts else None
    return Layouts(whole=whole_layout(family.shape, getattr(torch, options.dtype)), slot=slot)


def plan_decode(family: ShapeFamily, options: DecodeOptions, layouts: Layouts, device: torch.device) -> MemoryPlan:
    """The memory plan of the measurement, within what is free on the device.

    Raises:
        CapacityError: it does not fit.
    """
    shape, dtype = family.shape, layouts.whole.dtype
    context = context_bytes(device)
    return plan_memory(
        torch.cuda.mem_get_info(device)[0] + context,
        base_bytes=layouts.whole.nbytes,
        slot_bytes=layouts.slot.nbytes if layouts.slot is not None else 0,
        wanted_slots=options.experts,
        kv_bytes=kv_bytes(shape, rows=options.max_rows, tokens=options.cache_tokens, dtype=dtype),
        workspace_bytes=workspace_bytes(
            shape, dtype, max_rows=options.max_rows, chunk_tokens=1, context_tokens=options.cache_tokens
        ),
        context_bytes=context,
        least_slots=options.experts,
    )


def build_decode(family: ShapeFamily, options: DecodeOptions, layouts: Layouts, device: torch.device) -> DecodeRig:
    """The rig on `device`, every kind of step compiled and captured once."""
    with torch.inference_mode():
        rig = DecodeRig(family, options, layouts, device)
        for case in options.cases:
            rig.load(case, steps=1)()
    return rig


def _random_slots(family: ShapeFamily, options: DecodeOptions, layout: SlotLayout, device: torch.device) -> SlotArena:
    slots = SlotArena(layout, slots=options.experts, device=device)
    for slot, name in enumerate(family.experts(options.experts)):
        SyntheticImageSource(layout, seed=options.synthetic.seed, name=name).fill(slots.memory[slot])
    return slots
