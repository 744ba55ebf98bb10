"""Builds what the engine needs on a GPU, within its memory budget: weights, slots, cache, steps and tiers."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meswitch.architecture import read_config
from meswitch.checkpoint import Checkpoint
from meswitch.compatibility import check_compatible
from meswitch.config import EngineConfig, SchedulerConfig
from meswitch.core import BASE
from meswitch.cuda.availability import check_budget, check_device
from meswitch.cuda.base_weights import random_base, read_base
from meswitch.cuda.batch import CudaBatch
from meswitch.cuda.decoder import Decoder, rotary_tables
from meswitch.cuda.decoder_shape import DecoderShape, decoder_shape
from meswitch.cuda.delta_image import DeltaImageSource
from meswitch.cuda.expert_layout import layout_of
from meswitch.cuda.graphs import GraphPool
from meswitch.cuda.image import ImageSource
from meswitch.cuda.kept_images import KeptImages
from meswitch.cuda.kv_cache import KvCache, kv_bytes
from meswitch.cuda.memory_plan import MemoryPlan, plan_memory
from meswitch.cuda.pinned import PinnedArena
from meswitch.cuda.pool import CudaPool
from meswitch.cuda.prompt_runner import PromptRunner, padded_tokens
from meswitch.cuda.prompt_state import prompt_tensors
from meswitch.cuda.runners import Runners
from meswitch.cuda.slot_layout import SlotLayout
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.step_runner import StepRunner
from meswitch.cuda.synthetic_image import SyntheticImageSource, SyntheticWholeSource, shared_sources, synthetic_layout
from meswitch.cuda.whole_image import WholeImageSource
from meswitch.cuda.whole_layout import WholeLayout, WholeWeights, whole_layout
from meswitch.cuda.whole_pool import WholeCudaPool
from meswitch.cuda.workspace import context_bytes, workspace_bytes
from meswitch.errors import CapacityError, EngineError, UnsupportedModelError
from meswitch.expert_source import is_tied
from meswitch.format import open_delta
from meswitch.identity import base_identity
from meswitch.phases import Phases

__all__ = ["EngineParts", "build_parts", "build_parts_on"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """What an engine is put together from.

    Attributes:
        pool: base and experts.
        batch: the rows that run.
        plan: where the memory budget went.
        close: frees what the pool does not.
    """

    pool: CudaPool | WholeCudaPool
    batch: CudaBatch
    plan: MemoryPlan
    close: Callable[[], None]


def build_parts(
    config: EngineConfig,
    base_config: Any,
    *,
    limits: SchedulerConfig,
    executor: Executor,
    architecture: Any,
    kept: KeptImages | None = None,
    phases: Phases | None = None,
) -> EngineParts:
    """Everything allocated, compiled and captured; nothing grows later.

    Args:
        kept: host images of random experts that outlive this engine; `None` ends them with it.
        phases: where the seconds of `context`, `weights`, `steps`, `pinning` and `images` are counted.

    Raises:
        EngineError: there is no such GPU, or no Triton.
        CapacityError: the budget holds less than the base, one expert and the cache, or the GPU less than the budget.
        UnsupportedModelError: this path does not compute such a model.
    """
    phases = phases or Phases()
    # to ask a GPU for its memory is what makes its context
    with phases.of("context"):
        check_device(config.device)
        check_budget(config.memory_budget_bytes, index=config.device.index)
        device = torch.device("cuda", config.device.index)
        torch.cuda.set_device(device)
    try:
        return build_parts_on(
            device,
            config,
            base_config,
            limits=limits,
            executor=executor,
            architecture=architecture,
            kept=kept,
            phases=phases,
        )
    except torch.OutOfMemoryError as cause:
        # other programs may take memory at any time, and the plan of what computing needs is an estimate
        raise CapacityError(
            f"the GPU must have what the plan within {config.memory_budget_bytes} bytes needs, and ran out while the "
            f"engine was built: {str(cause).splitlines()[0]}; stop what else runs there, or ask for fewer rows or slots"
        ) from cause


def build_parts_on(
    device: torch.device,
    config: EngineConfig,
    base_config: Any,
    *,
    limits: SchedulerConfig,
    executor: Executor,
    architecture: Any,
    kept: KeptImages | None = None,
    phases: Phases | None = None,
) -> EngineParts:
    """`build_parts` on a device that was checked; on a CPU, kernels run in Triton's interpreter."""
    phases = phases or Phases()
    with phases.of("context"):
        context = context_bytes(device)
    shape = decoder_shape(base_config, tied=_is_tied(config, base_config, architecture))
    check_window(shape, limits)
    with ExitStack() as stack:
        build = _delta_parts if config.weights == "delta" else _whole_parts
        # what a file is read into is nobody's to find again
        kept = kept if config.synthetic is not None else None
        builder = _Builder(config, base_config, shape, limits, device, context, executor, stack, kept, phases)
        pool, batch, plan = build(builder)
        close = stack.pop_all().close
    return EngineParts(pool=pool, batch=batch, plan=plan, close=close)


def check_window(shape: DecoderShape, limits: SchedulerConfig) -> None:
    """Nothing, if attention never has to forget the first tokens of a request.

    Raises:
        UnsupportedModelError: it would have to.
    """
    if shape.window is not None and limits.max_context_tokens > shape.window:
        raise UnsupportedModelError(
            f"max_context_tokens must be at most the sliding window, {shape.window}, got {limits.max_context_tokens}"
        )


@dataclass(frozen=True, slots=True)
class _Builder:
    """What both kinds of weights are built from."""

    config: EngineConfig
    base_config: Any
    shape: DecoderShape
    limits: SchedulerConfig
    device: torch.device
    context: int
    executor: Executor
    stack: ExitStack
    kept: KeptImages | None
    phases: Phases

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's seconds for a phase, with those that the device needs for it."""
        with self.phases.of(name):
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

    @property
    def drawn(self) -> dict[int, Hashable] | None:
        """What the images hold that outlive engines; `None` where none do."""
        return None if self.kept is None else self.kept.drawn

    @property
    def dtype(self) -> torch.dtype:
        """Of matrices and activations."""
        return DTYPES[self.config.device.dtype]

    def plan(self, *, base_bytes: int, slot_bytes: int, wanted: int, least: int) -> MemoryPlan:
        """The memory plan of the wanted slots, or of as many as fit but not fewer than `least`."""
        limits, chunk = self.limits, self.config.device.prefill_chunk_tokens
        return plan_memory(
            self.config.memory_budget_bytes,
            base_bytes=base_bytes,
            slot_bytes=slot_bytes,
            wanted_slots=wanted,
            kv_bytes=kv_bytes(self.shape, rows=limits.max_rows, tokens=limits.max_context_tokens, dtype=self.dtype),
            workspace_bytes=workspace_bytes(
                self.shape,
                dtype=self.dtype,
                max_rows=limits.max_rows,
                chunk_tokens=chunk,
                context_tokens=limits.max_context_tokens,
            ),
            context_bytes=self.context,
            least_slots=max(1, least, len(self.config.store.pinned)),
        )

    def cache(self) -> KvCache:
        """Keys and values of all rows."""
        limits = self.limits
        return KvCache(
            self.shape,
            rows=limits.max_rows,
            tokens=limits.max_context_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def runners(self, weights: Sequence[WholeWeights], slots: SlotArena | None) -> dict[int, Runners]:
        """What runs with each of these, compiled and captured, by the address of their memory.

        One of them computes at a time: they share keys and values, a prompt's tensors, and the memory of graphs.
        """
        cache, device = self.cache(), self.config.device
        rotary = rotary_tables(self.base_config, positions=cache.tokens, device=self.device)
        chunk = min(device.prefill_chunk_tokens, cache.tokens)
        tensors = prompt_tensors(self.shape, tokens=padded_tokens(chunk), dtype=self.dtype, device=self.device)
        graphs = GraphPool(self.device) if device.use_graphs else None
        found = {}
        for whole in weights:
            decoder = Decoder(self.shape, whole, slots, cache, rotary)
            steps = StepRunner(decoder, max_rows=self.limits.max_rows, device=self.device, graphs=graphs)
            runners = Runners(PromptRunner(decoder, tensors, graphs=graphs), steps)
            runners.warm_up()
            found[whole.memory.data_ptr()] = runners
        return found

    def batch(self, runners: Mapping[int, Runners]) -> CudaBatch:
        """The rows that run, by the memory of the weights that they run with."""
        return CudaBatch(
            lambda weights: runners[weights.memory.data_ptr()],
            max_rows=self.limits.max_rows,
            max_tokens=self.limits.max_context_tokens,
            chunk_tokens=self.config.device.prefill_chunk_tokens,
            device=self.device,
        )

    def host_images(self, nbytes: int, sources: Mapping[str, ImageSource]) -> PinnedArena:
        """Pinned memory for as many images as the host budget holds; for one where each switch is to read its file."""
        from_disk = self.config.weights == "full" and self.config.device.model_source != "host"
        distinct = 1 if from_disk else len({id(source) for source in sources.values()})
        budget = self.config.device.host_budget_bytes
        if budget is not None and budget < nbytes:
            raise CapacityError(
                f"host_budget_bytes must hold one image of an expert, {nbytes} bytes, got {budget}; raise it"
            )
        images = distinct if budget is None else min(distinct, budget // nbytes)
        with self.phase("pinning"):
            arena = PinnedArena(nbytes, images=images, device=self.device, kept=self.kept)
        self.stack.callback(arena.close)
        return arena


def _delta_parts(builder: _Builder) -> tuple[CudaPool, CudaBatch, MemoryPlan]:
    config = builder.config
    layout, sources = _delta_sources(builder)
    whole = whole_layout(builder.shape, builder.dtype)
    asked = config.device.slots
    wanted = max(1, len(sources)) if asked is None else asked
    plan = builder.plan(base_bytes=whole.nbytes, slot_bytes=layout.nbytes, wanted=wanted, least=asked or 1)
    with builder.phase("weights"):
        base = _base(builder, whole)
    slots = SlotArena(layout, slots=plan.slots, device=builder.device)
    with builder.phase("steps"):
        runners = builder.runners([base], slots)
    pool = CudaPool(
        base,
        sources,
        slots=slots,
        host=builder.host_images(layout.nbytes, sources),
        executor=builder.executor,
        config=config.store,
    )
    # one that cannot be read fails its own requests, by name
    with builder.phase("images"):
        pool.preload()
    return pool, builder.batch(runners), plan


def _delta_sources(builder: _Builder) -> tuple[SlotLayout, dict[str, ImageSource]]:
    config, names = builder.config, tuple(builder.config.experts)
    if config.synthetic is not None:
        layout, seed = synthetic_layout(config.synthetic, builder.shape), config.synthetic.seed
        images = config.synthetic.host_images
        return layout, shared_sources(
            names,
            lambda name: SyntheticImageSource(layout, seed=seed, name=name, drawn=builder.drawn),
            images=images,
        )
    directories = {name: open_delta(path, verify=False) for name, path in config.experts.items()}
    identity = base_identity(config.base)
    for directory in directories.values():
        directory.check_base(identity)
    layout = layout_of(directories, builder.shape)
    return layout, {name: DeltaImageSource(found, layout) for name, found in directories.items()}


def _base(builder: _Builder, layout: WholeLayout) -> WholeWeights:
    config = builder.config
    if config.synthetic is not None:
        return random_base(layout, seed=config.synthetic.seed, device=builder.device)
    return read_base(config.base, layout, builder.device)


def _whole_parts(builder: _Builder) -> tuple[WholeCudaPool, CudaBatch, MemoryPlan]:
    config, layout = builder.config, whole_layout(builder.shape, builder.dtype)
    sources = _whole_sources(builder, layout)
    asked = config.device.model_buffers
    wanted = len(sources) if asked is None else asked
    plan = builder.plan(base_bytes=0, slot_bytes=layout.nbytes, wanted=wanted, least=asked or 1)
    buffers = [
        WholeWeights(layout, torch.zeros(layout.nbytes, dtype=torch.uint8, device=builder.device))
        for _ in range(plan.slots)
    ]
    with builder.phase("steps"):
        runners = builder.runners(buffers, None)
    pool = WholeCudaPool(
        buffers,
        sources,
        host=builder.host_images(layout.nbytes, sources),
        executor=builder.executor,
        config=config.store,
    )
    if config.device.model_source == "host":
        with builder.phase("images"):
            pool.preload()
    return pool, builder.batch(runners), plan


def _whole_sources(builder: _Builder, layout: WholeLayout) -> dict[str, ImageSource]:
    config = builder.config
    paths: dict[str, Path] = {BASE: config.base, **config.experts}
    if config.synthetic is not None:
        if config.device.model_source != "host":
            raise EngineError(
                f"random models have no files: model_source must be host, got {config.device.model_source}; "
                "give checkpoints, or compare with models in host memory"
            )
        seed = config.synthetic.seed
        return shared_sources(
            tuple(paths),
            lambda name: SyntheticWholeSource(layout, seed=seed, name=name, drawn=builder.drawn),
            images=config.synthetic.host_images,
        )
    for path in config.experts.values():
        check_compatible(builder.base_config, read_config(path))
    direct = config.device.model_source == "disk-cold"
    return {name: WholeImageSource(path, layout, direct=direct) for name, path in paths.items()}


def _is_tied(config: EngineConfig, base_config: Any, architecture: Any) -> bool:
    if config.synthetic is not None:
        return bool(getattr(base_config, "tie_word_embeddings", False))
    return is_tied(Checkpoint(config.base), base_config, architecture)
