"""Bytes that a decode step must read whatever computes it: the floor of its time at the memory's bandwidth."""

from harness.decode.case import DecodeCase
from meswitch.cuda.decoder_shape import DecoderShape
from meswitch.cuda.slot_layout import MatrixPart, SlotLayout
from meswitch.cuda.whole_layout import WholeLayout

__all__ = ["delta_read_bytes", "kv_read_bytes", "step_read_bytes", "whole_models_read_bytes", "whole_read_bytes"]


def step_read_bytes(case: DecodeCase, whole: WholeLayout, slot: SlotLayout | None) -> int:
    """Bytes of one step: base, deltas of the distinct experts, keys and values. Activations are left out.

    Args:
        case: rows, experts and context.
        whole: of the base.
        slot: of an expert; not needed without experts.
    """
    deltas = case.E * delta_read_bytes(slot) if slot is not None else 0
    return whole_read_bytes(whole) + deltas + kv_read_bytes(case, whole)


def whole_models_read_bytes(case: DecodeCase, whole: WholeLayout) -> int:
    """Bytes of one step in which every expert is a whole model: nothing is shared but the card."""
    return max(case.E, 1) * whole_read_bytes(whole) + kv_read_bytes(case, whole)


def whole_read_bytes(whole: WholeLayout) -> int:
    """Linears, norms, biases and head; of the embedding a step looks up single rows, so it counts only as the head."""
    left_out = 0 if whole.shape.tied else whole.tensors["embedding"].spec.nbytes
    return sum(place.spec.nbytes for place in whole.tensors.values()) - left_out


def delta_read_bytes(slot: SlotLayout) -> int:
    """Codes, steps, salient channels and values of the same, for one expert; the padding of rows is read, too."""
    parts = [part for part in slot.parts() if part is not slot.embedding or slot.head is None]
    return sum(part.end - (part.codes if isinstance(part, MatrixPart) else part.offset) for part in parts)


def kv_read_bytes(case: DecodeCase, whole: WholeLayout) -> int:
    """Keys and values of all rows."""
    shape: DecoderShape = whole.shape
    return 2 * shape.layers * case.B * case.context * shape.kv_rows * whole.dtype.itemsize
