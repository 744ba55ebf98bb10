"""A model of random weights on the GPU that runs any of the measured decode steps."""

from collections.abc import Callable
from typing import Protocol

import torch

from harness.decode.case import DecodeCase
from harness.decode.options import DecodeOptions
from harness.random_model import RandomModel, Room, Subject, load_subject, plan_model
from meswitch.cuda.graphs import GraphPool
from meswitch.cuda.memory_plan import MemoryPlan
from meswitch.cuda.step_runner import StepRunner
from meswitch.cuda.step_state import RowState

__all__ = ["DecodeRig", "Rig", "build_decode", "decode_subject", "plan_decode"]


class Rig(Protocol):
    """What a measurement needs of a model."""

    def load(self, case: DecodeCase, *, steps: int) -> Callable[[], None]:
        """What runs one step of `case`; each call is one token further, and `steps` of them read the case's context."""


class DecodeRig:
    """The decoder with the experts in their slots, and the same base alone.

    Args:
        subject: whose shape and layouts it has.
        options: of the measurement.
        device: where everything is allocated, and filled with random numbers.
    """

    def __init__(self, subject: Subject, options: DecodeOptions, device: torch.device) -> None:
        model = RandomModel(subject, _room(options), seed=options.synthetic.seed, device=device)
        self._vocabulary = model.vocabulary
        graphs = GraphPool(device) if device.type == "cuda" else None
        self._base_only, self._mixed = (
            StepRunner(model.decoder(has_experts=has_experts), max_rows=options.max_rows, device=device, graphs=graphs)
            for has_experts in (False, True)
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


def decode_subject(options: DecodeOptions) -> Subject:
    """What the options are about, as `load_subject` finds it, with what it raises."""
    return load_subject(
        options.family,
        options.synthetic,
        dtype=options.dtype,
        has_experts=options.experts > 0,
        row_tokens=options.cache_tokens,
        tokens_of="--context and --replays",
    )


def plan_decode(subject: Subject, options: DecodeOptions, device: torch.device) -> MemoryPlan:
    """The memory plan of the measurement, within what is free on the device.

    Raises:
        CapacityError: it does not fit.
    """
    return plan_model(subject, _room(options), device)


def build_decode(subject: Subject, options: DecodeOptions, device: torch.device) -> DecodeRig:
    """The rig on `device`, every kind of step compiled and captured once."""
    with torch.inference_mode():
        rig = DecodeRig(subject, options, device)
        for case in options.cases:
            rig.load(case, steps=1)()
    return rig


def _room(options: DecodeOptions) -> Room:
    return Room(experts=options.experts, rows=options.max_rows, tokens=options.cache_tokens, chunk_tokens=1)
