"""Frozen configurations, built once at the edge and never edited."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from meswitch.policies import new_policy

__all__ = [
    "DeviceConfig",
    "EngineConfig",
    "RouterConfig",
    "SchedulerConfig",
    "StoreConfig",
    "SyntheticConfig",
    "WeightKind",
]

WeightKind = Literal["delta", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """Where an engine computes, and how.

    Attributes:
        kind: `cpu` computes in float32; `cuda` is one NVIDIA GPU.
        index: of the GPU.
        dtype: of matrices, activations, keys and values on the GPU.
        prefill_chunk_tokens: of a prompt, computed between two tokens of the running rows.
        host_budget_bytes: of pinned memory for experts that have no slot; `None` for as much as all of them take.
        slots: experts on the GPU at once; `None` for as many as the memory budget holds.
        model_buffers: whole models on the GPU at once (`weights="full"`): with 2 or more, the next is copied while one
            computes; `None` for as many as the memory budget holds.
        model_source: where whole models (`weights="full"`) come from: pinned `host` memory; `disk`, through the
            system's page cache; `disk-cold`, past it.
        use_graphs: replay decode steps, and prompts between attentions, as CUDA graphs.
        allow_reference: serve codecs that no kernel covers by plain PyTorch. Slow, and never for a benchmark.
    """

    kind: Literal["cpu", "cuda"] = "cpu"
    index: int = 0
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    prefill_chunk_tokens: int = 512
    host_budget_bytes: int | None = None
    slots: int | None = None
    model_buffers: int | None = None
    model_source: Literal["host", "disk", "disk-cold"] = "host"
    use_graphs: bool = True
    allow_reference: bool = False

    def __post_init__(self) -> None:
        for name in ("prefill_chunk_tokens", "slots", "model_buffers", "host_budget_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticConfig:
    """Random weights of the right shapes and bytes: for memory and speed, never for quality.

    Attributes:
        linear, embedding, head: codec specs of the experts.
        seed: of all weights.
        host_images: distinct images in host memory; more experts than that share them, by name modulo. `None` gives
            each expert its own.
    """

    linear: str = "salient:bits=2,channels=8"
    embedding: str = "rtn:bits=4"
    head: str = "rtn:bits=4"
    seed: int = 0
    host_images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """How a query without an expert is routed.

    Attributes:
        model: Hugging Face checkpoint directory of the router LLM.
        domains: description of each expert's domain, in the order in which they are lettered.
        threshold: below this confidence the fallback answers.
        fallback: an expert's name or `base`.
    """

    model: Path
    domains: Mapping[str, str]
    threshold: float = 0.0
    fallback: str = "base"

    def __post_init__(self) -> None:
        if not self.domains:
            raise ValueError("a router needs at least one domain, got none")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of continuous batching.

    Attributes:
        max_rows: requests decoded together.
        max_context_tokens: prompt and output of one request.
        max_queue: waiting requests beyond which a new one is refused.
        max_wait_s: a request that waited so long goes before all others (starvation bound).
        order: in which missing experts are brought: `first-come` by the age of the oldest request that waits for each;
            `grouped` by how many requests wait, once those with an overdue one are served.
    """

    max_rows: int = 16
    max_context_tokens: int = 512
    max_queue: int = 4096
    max_wait_s: float = 2.0
    order: Literal["first-come", "grouped"] = "first-come"

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_context_tokens", "max_queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_wait_s <= 0:
            raise ValueError(f"max_wait_s must be positive, got {self.max_wait_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Which experts stay in memory.

    Attributes:
        policy: who makes room: one of `meswitch.policies.POLICIES`.
        pinned: experts that are loaded at the start and never evicted.

    Raises:
        UnknownPolicyError: there is no such policy.
    """

    policy: str = "lru"
    pinned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        new_policy(self.policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything an engine needs to start; picklable, so that it can start in a process of its own.

    Attributes:
        base: Hugging Face checkpoint directory of the base.
        experts: by name, a delta directory (`weights="delta"`) or a checkpoint directory (`weights="full"`).
        weights: `delta` keeps the base and each expert's compressed delta; `full` swaps whole models.
        memory_budget_bytes: what all weights, the router's included, may take.
        router: `None` when every request names its expert.
        store: which experts stay in memory.
        threads: of torch, in the engine's process.
        device: where it computes.
        synthetic: random base and experts instead of those of `base` and `experts`, of which only the config of `base`
            and the names of `experts` count then.
    """

    base: Path
    experts: Mapping[str, Path]
    weights: WeightKind = "delta"
    memory_budget_bytes: int
    router: RouterConfig | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    threads: int = 1
    device: DeviceConfig = field(default_factory=DeviceConfig)
    synthetic: SyntheticConfig | None = None

    def __post_init__(self) -> None:
        if self.synthetic is not None and self.device.kind != "cuda":
            raise ValueError("synthetic experts are for a GPU: device.kind must be cuda, got cpu")
        if self.memory_budget_bytes < 1:
            raise ValueError(f"memory_budget_bytes must be positive, got {self.memory_budget_bytes}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
