"""A model of random weights on the GPU that computes any of the measured prompts."""

import time
from collections.abc import Callable
from typing import Protocol

import torch

from harness.prefill.case import PrefillCase
from harness.prefill.options import PrefillOptions
from harness.prefill.products import BaseProducts
from harness.prefill.timing import PromptTimes, time_prompt
from harness.random_model import RandomModel, Room, Subject, load_subject, plan_model
from meswitch.cuda.graphs import GraphPool
from meswitch.cuda.memory_plan import MemoryPlan
from meswitch.cuda.prompt_runner import PromptRunner, prompt_sizes
from meswitch.cuda.prompt_state import prompt_tensors
from meswitch.cuda.step_state import RowState

__all__ = ["PrefillRig", "Rig", "build_prefill", "plan_prefill", "prefill_subject"]


class Rig(Protocol):
    """What a measurement needs of a model."""

    def run(self, case: PrefillCase) -> PromptTimes:
        """Compute one prompt of `case` on a device that has nothing else to do."""

    def products(self, tokens: int) -> Callable[[], None]:
        """What launches the base's products of a prompt of so many tokens."""


class PrefillRig:
    """The decoder with one expert in its slot. Prompts of the base go through the same decoder, past the slot.

    Args:
        subject: whose shape and layouts it has.
        options: of the measurement.
        device: where everything is allocated, and filled with random numbers. On a CPU there are no graphs: what they
            would hold is launched kernel by kernel.
    """

    def __init__(self, subject: Subject, options: PrefillOptions, device: torch.device) -> None:
        seed = options.synthetic.seed
        self._options = options
        self._device = device
        model = RandomModel(subject, _room(options), seed=seed, device=device)
        decoder = model.decoder(has_experts=True)
        self._vocabulary = model.vocabulary
        graphs = GraphPool(device) if device.type == "cuda" else None
        # one of them computes at a time
        tensors = prompt_tensors(
            subject.family.shape,
            tokens=_padded_chunk(options),
            dtype=subject.layouts.whole.dtype,
            device=device,
        )
        self._runners = {
            "graphs": PromptRunner(decoder, tensors, graphs=graphs),
            "single": PromptRunner(decoder, tensors, graphs=None),
        }
        self._products = BaseProducts(model.base, most_tokens=options.longest_chunk, graphs=graphs, seed=seed)
        self._ids = torch.randint(
            model.vocabulary, (options.row_tokens,), generator=torch.Generator().manual_seed(seed)
        )
        self._tokens = self._ids.to(device)

    def warm_up(self) -> None:
        """Compile and capture everything that the options' cases need, by computing each of them."""
        self._runners["graphs"].warm_up()
        for case in self._options.cases:
            self.run(case)
            self.products(case.tokens)()

    def run(self, case: PrefillCase) -> PromptTimes:
        """Compute one prompt of `case`; nothing waits for a copy of its expert, which is in its slot."""
        runner, slot = self._runners[case.launches], 0 if case.has_expert else -1
        newest = RowState(
            token=int(self._ids[case.tokens - 1]),
            position=case.start + case.tokens - 1,
            cache_row=0,
            slot=slot,
            refined=True,
            vocabulary=self._vocabulary,
            temperature=0.0,
            seed=0,
        )

        def launch() -> None:
            done = 0
            for count in self._options.chunks(case.tokens):
                chunk = self._tokens[done : done + count]
                runner.run(chunk, start=case.start + done, cache_row=0, slot=slot, wait=_is_in_place)
                done += count

        return time_prompt(
            launch,
            lambda: runner.first_token(newest, wait=_is_in_place),
            settle=self._settle,
            now_ns=time.perf_counter_ns,
        )

    def products(self, tokens: int) -> Callable[[], None]:
        """What launches the base's products of a prompt of so many tokens."""
        return self._products.launch(self._options.chunks(tokens))

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def prefill_subject(options: PrefillOptions) -> Subject:
    """What the options are about, as `load_subject` finds it, with what it raises."""
    return load_subject(
        options.family,
        options.synthetic,
        dtype=options.dtype,
        has_experts=True,
        row_tokens=options.row_tokens,
        tokens_of="--start and --tokens",
    )


def plan_prefill(subject: Subject, options: PrefillOptions, device: torch.device) -> MemoryPlan:
    """The memory plan of the measurement, within what is free on the device.

    Raises:
        CapacityError: it does not fit.
    """
    return plan_model(subject, _room(options), device)


def build_prefill(subject: Subject, options: PrefillOptions, device: torch.device) -> PrefillRig:
    """The rig on `device`, every kind of prompt compiled and captured once."""
    with torch.inference_mode():
        rig = PrefillRig(subject, options, device)
        rig.warm_up()
    return rig


def _room(options: PrefillOptions) -> Room:
    padded = _padded_chunk(options)
    # warming up attends to a whole padded chunk; the products by themselves keep no more than a chunk's activations
    return Room(experts=1, rows=1, tokens=max(options.row_tokens, padded), chunk_tokens=2 * padded)


def _padded_chunk(options: PrefillOptions) -> int:
    """What the longest chunk is padded to in an engine, so that a row does not depend on what else is measured."""
    return next(size for size in prompt_sizes(options.chunk_tokens) if size >= options.longest_chunk)


def _is_in_place(segment: int) -> None:
    """Nothing to wait for: `segment` was filled before anything was measured."""
