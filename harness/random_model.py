"""A model of random weights on the GPU, for what measures its computation without an engine around it."""

from dataclasses import dataclass

import torch

from harness.engines import Dtype
from harness.errors import UsageError
from harness.shapes import whole_spec
from harness.telemetry import GpuMonitor, check_gpu
from meswitch.config import DeviceConfig, SyntheticConfig
from meswitch.cuda.availability import check_device
from meswitch.cuda.base_weights import random_base
from meswitch.cuda.decoder import Decoder, rotary_tables
from meswitch.cuda.kv_cache import KvCache, kv_bytes
from meswitch.cuda.memory_plan import MemoryPlan, plan_memory
from meswitch.cuda.slot_layout import SlotLayout
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.synthetic_image import SyntheticImageSource, synthetic_layout
from meswitch.cuda.whole_layout import WholeLayout, whole_layout
from meswitch.cuda.workspace import context_bytes, workspace_bytes
from meswitch.families import ShapeFamily, load_shape_family

__all__ = ["Layouts", "RandomModel", "Room", "Subject", "load_subject", "plan_model", "take_device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """The bytes of the model: of the base, and of each expert; no `slot` where no case has experts."""

    whole: WholeLayout
    slot: SlotLayout | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured, as far as it is known without a GPU.

    Attributes:
        family: whose shape the model has.
        codec: of the experts' linears, with all options, as rows name it.
        layouts: of base and experts.
    """

    family: ShapeFamily
    codec: str
    layouts: Layouts


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
        subject: shape and layouts.
        room: how many experts, rows and tokens.
        seed: of everything.
        device: where everything is allocated, and filled.

    Attributes:
        base: the weights that all share.
        vocabulary: tokens there are.
    """

    def __init__(self, subject: Subject, room: Room, *, seed: int, device: torch.device) -> None:
        family, layouts = subject.family, subject.layouts
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


def load_subject(
    family: str, synthetic: SyntheticConfig, *, dtype: str, has_experts: bool, row_tokens: int, tokens_of: str
) -> Subject:
    """What is measured, checked.

    Args:
        family: a shape's name, or the path of a Hugging Face config.
        synthetic: codecs of the experts.
        dtype: of the base.
        has_experts: whether any case has.
        row_tokens: of the longest row.
        tokens_of: the options that make it so long, as a message names them.

    Raises:
        FamilyError: there is no such shape.
        UnsupportedModelError: the CUDA path does not compute it, or no kernel covers a codec.
        DeltaError: there is no such codec.
        UsageError: attention would have to forget a position of the longest row.
    """
    shapes = load_shape_family(family)
    _check_window(shapes, row_tokens, options=tokens_of)
    slot = synthetic_layout(synthetic, shapes.shape) if has_experts else None
    layouts = Layouts(whole=whole_layout(shapes.shape, getattr(torch, dtype)), slot=slot)
    return Subject(family=shapes, codec=whole_spec(synthetic.linear), layouts=layouts)


def take_device(gpu: GpuMonitor, *, index: int, dtype: Dtype) -> torch.device:
    """GPU `index`, from now on the one that PyTorch allocates on.

    Args:
        gpu: the driver's view of it.
        index: of the GPU.
        dtype: that it is to compute in.

    Raises:
        UsageError: the driver sees none.
        EngineError: PyTorch does not see it, or it cannot do the work.
    """
    check_gpu("cuda", gpu)
    check_device(DeviceConfig(kind="cuda", dtype=dtype, index=index))
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def plan_model(subject: Subject, room: Room, device: torch.device) -> MemoryPlan:
    """The memory plan of a model with so much room, within what is free on the device.

    Raises:
        CapacityError: it does not fit.
    """
    shape, layouts, dtype = subject.family.shape, subject.layouts, subject.layouts.whole.dtype
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


def _check_window(family: ShapeFamily, tokens: int, *, options: str) -> None:
    window = family.shape.window
    if window is not None and tokens > window:
        raise UsageError(
            f"{options} together must be at most the sliding window of {family.name}, {window}, got {tokens}"
        )
