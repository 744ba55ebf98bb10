"""Builds an engine from its configuration; whatever cannot work is an error before the first request."""

import gc
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meswitch.architecture import Architecture, describe, read_config
from meswitch.batch import Batch, RunningBatch
from meswitch.checkpoint import Checkpoint
from meswitch.compatibility import check_compatible
from meswitch.config import EngineConfig, RouterConfig, SchedulerConfig, StoreConfig
from meswitch.core import BASE, Engine
from meswitch.delta import ExpertDelta
from meswitch.errors import CapacityError, ExpertNameError, UnsupportedModelError
from meswitch.expert_profile import ExpertProfile, ProfileReader
from meswitch.expert_source import is_tied
from meswitch.format import load_expert, open_delta
from meswitch.identity import base_identity
from meswitch.model import SwitchModel
from meswitch.names import check_name
from meswitch.phases import Phases
from meswitch.pool import DeltaPool, Pool, WholePool
from meswitch.router.base import Router
from meswitch.router.tag import TagRouter
from meswitch.store import Source
from meswitch.switch_engine import SwitchEngine
from meswitch.weights import WholeModel, read_whole_model, whole_model_bytes
from meswitch_kernels.errors import UnsupportedShapeError

if TYPE_CHECKING:
    from meswitch.cuda.kept_images import KeptImages

__all__ = ["build_engine"]


def build_engine(config: EngineConfig, *, kept: "KeptImages | None" = None, phases: Phases | None = None) -> Engine:
    """An idle engine that serves the experts of `config`, and its base under the name `base`.

    Args:
        config: what to serve, and with what.
        kept: a GPU's host images that outlive this engine, for the next one of this process.
        phases: where the seconds are counted that this takes.

    Raises:
        CheckpointError, DeltaError, ExpertError: an input is missing, damaged or does not belong to the base.
        CapacityError: the memory budget holds less than what one request needs.
    """
    _check_names(config)
    phases = phases or Phases()
    # in the experts' own spelling, whatever the letters' case
    config = replace(config, store=_resolve_pinned(config))
    base_config = read_config(config.base)
    architecture = describe(base_config)
    router = _build_router(config.router, config)
    limits = _within_positions(config.scheduler, base_config)
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="meswitch-load")
    try:
        # first what may be refused, then what takes gigabytes
        with phases.of("profiles"):
            profiles = _read_profiles(config)
        parts = _build_parts(
            _Inputs(
                config=config,
                architecture=architecture,
                base_config=base_config,
                limits=limits,
                executor=executor,
                router_bytes=router.nbytes if router else 0,
                kept=kept,
                phases=phases,
            )
        )
    except BaseException:
        executor.shutdown(cancel_futures=True)
        raise

    def close() -> None:
        executor.shutdown(cancel_futures=True)
        parts.close()

    return SwitchEngine(
        pool=parts.pool,
        batch=parts.batch,
        profiles=profiles,
        scheduler=limits,
        router=router,
        budget_bytes=config.memory_budget_bytes,
        kv_bytes=parts.kv_bytes,
        memory_plan=parts.memory_plan,
        is_reference=parts.is_reference,
        startup_s=phases.seconds,
        on_close=close,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What depends on where the engine computes."""

    pool: Pool
    batch: RunningBatch
    kv_bytes: int
    memory_plan: Mapping[str, int]
    close: Callable[[], None]
    is_reference: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What the parts are made from."""

    config: EngineConfig
    architecture: Architecture
    base_config: Any
    limits: SchedulerConfig
    executor: Executor
    router_bytes: int
    kept: "KeptImages | None"
    phases: Phases


def _build_parts(inputs: _Inputs) -> _Parts:
    device = inputs.config.device
    if device.kind == "cpu":
        return _cpu_parts(inputs)
    try:
        return _cuda_parts(inputs)
    except (UnsupportedModelError, UnsupportedShapeError) as error:
        if device.allow_reference and inputs.config.synthetic is None:
            # asked for: plain PyTorch on the CPU computes what no kernel covers, and the statistics say so
            return replace(_cpu_parts(inputs), is_reference=True)
        raise UnsupportedModelError(f"{error} (--allow-reference serves it on the CPU, slowly)") from error


def _cpu_parts(inputs: _Inputs) -> _Parts:
    limits = inputs.limits
    with inputs.phases.of("weights"):
        pool = (_delta_pool if inputs.config.weights == "delta" else _whole_pool)(inputs)
        model = SwitchModel(inputs.base_config)
        cache = model.new_cache(slots=limits.max_rows, tokens=limits.max_context_tokens)
        # the model's initial values were garbage; nothing may count them as memory of ours
        gc.collect()
    batch = Batch(model, cache, max_rows=limits.max_rows)
    return _Parts(pool=pool, batch=batch, kv_bytes=cache.nbytes, memory_plan={}, close=lambda: None)


def _cuda_parts(inputs: _Inputs) -> _Parts:
    with inputs.phases.of("imports"):
        # only here: the CPU path needs no Triton. The router computes on the CPU, outside this budget
        from meswitch.cuda.engine_parts import build_parts

    parts = build_parts(
        inputs.config,
        inputs.base_config,
        limits=inputs.limits,
        executor=inputs.executor,
        architecture=inputs.architecture,
        kept=inputs.kept,
        phases=inputs.phases,
    )
    return _Parts(
        pool=parts.pool,
        batch=parts.batch,
        kv_bytes=parts.plan.kv_bytes,
        memory_plan=asdict(parts.plan),
        close=parts.close,
    )


def _within_positions(limits: SchedulerConfig, base_config: Any) -> SchedulerConfig:
    """`limits`, but no more tokens than the base was made for: beyond its positions answers turn into noise."""
    positions = getattr(base_config, "max_position_embeddings", None) or limits.max_context_tokens
    return replace(limits, max_context_tokens=min(limits.max_context_tokens, positions))


def _check_names(config: EngineConfig) -> None:
    seen: dict[str, str] = {}
    for name in config.experts:
        other = seen.setdefault(check_name(name).casefold(), name)
        if other != name:
            raise ExpertNameError(f"experts' names must differ in more than case, got {other!r} and {name!r}")


def _resolve_pinned(config: EngineConfig) -> StoreConfig:
    tags = TagRouter({*config.experts, BASE})
    return replace(config.store, pinned=tuple(dict.fromkeys(tags.resolve(name) for name in config.store.pinned)))


def _build_router(config: RouterConfig | None, engine: EngineConfig) -> Router | None:
    if config is None:
        return None
    from meswitch.router.llm import LlmRouter

    tags = TagRouter({*engine.experts, BASE})
    domains = {tags.resolve(name): text for name, text in config.domains.items()}
    return LlmRouter(config.model, domains=domains, threshold=config.threshold, fallback=tags.resolve(config.fallback))


def _read_profiles(config: EngineConfig) -> Mapping[str, ExpertProfile]:
    reader = ProfileReader(config.base)
    profiles = {BASE: reader.read(config.base)}
    if config.synthetic is not None:
        return dict.fromkeys((BASE, *config.experts), profiles[BASE])
    for name, path in config.experts.items():
        profiles[name] = reader.read(_companions(path) if config.weights == "delta" else path)
    return profiles


def _companions(path: Path) -> Path:
    directory = open_delta(path, verify=False)
    directory.check_companions()
    return directory.tokenizer_dir


def _delta_pool(inputs: _Inputs) -> Pool:
    config, architecture, router_bytes = inputs.config, inputs.architecture, inputs.router_bytes
    identity = base_identity(config.base)
    sources = {name: _delta_source(path, identity) for name, path in config.experts.items()}
    tied = is_tied(Checkpoint(config.base), inputs.base_config, architecture)
    base_bytes = whole_model_bytes(config.base, architecture=architecture, tied=tied)
    left = config.memory_budget_bytes - base_bytes - router_bytes
    largest = max(sources, key=lambda name: sources[name].nbytes, default=None)
    needed = sources[largest].nbytes if largest is not None else 0
    if left < needed:
        expert = f" + expert {largest} {needed}" if largest is not None else ""
        raise CapacityError(
            f"memory_budget_bytes must hold router {router_bytes} + base {base_bytes}{expert} = "
            f"{router_bytes + base_bytes + needed} bytes, got {config.memory_budget_bytes}; raise the budget"
        )
    base = read_whole_model(config.base, architecture=architecture, tied=tied)
    return DeltaPool(
        base, sources, architecture=architecture, capacity_bytes=left, executor=inputs.executor, config=config.store
    )


def _delta_source(path: Path, identity: str) -> Source[ExpertDelta]:
    directory = open_delta(path, verify=False)
    directory.check_base(identity)
    # the tensors are views of one arena as large as the file, so that is what they take
    return Source(
        nbytes=directory.read_bytes,
        read_bytes=directory.read_bytes,
        read=partial(load_expert, path, base_identity=identity),
    )


def _whole_pool(inputs: _Inputs) -> Pool:
    config, router_bytes = inputs.config, inputs.router_bytes
    sources = {
        name: _whole_source(path, inputs.architecture, inputs.base_config)
        for name, path in {BASE: config.base, **config.experts}.items()
    }
    left = config.memory_budget_bytes - router_bytes
    largest = max(sources, key=lambda name: sources[name].nbytes)
    needed = sources[largest].nbytes
    if left < needed:
        raise CapacityError(
            f"memory_budget_bytes must hold router {router_bytes} + whole model {largest} {needed} = "
            f"{router_bytes + needed} bytes, got {config.memory_budget_bytes}; raise the budget"
        )
    return WholePool(sources, capacity_bytes=left, executor=inputs.executor, config=config.store)


def _whole_source(path: Path, architecture: Architecture, base_config: Any) -> Source[WholeModel]:
    config = read_config(path)
    check_compatible(base_config, config)
    checkpoint = Checkpoint(path)
    # settled once: a load reads weights and nothing else
    tied = is_tied(checkpoint, config, architecture)
    return Source(
        nbytes=whole_model_bytes(path, architecture=architecture, tied=tied),
        read_bytes=sum(file.stat().st_size for file in checkpoint.files),
        read=partial(read_whole_model, path, architecture=architecture, tied=tied),
    )
