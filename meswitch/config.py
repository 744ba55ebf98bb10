"""Frozen configurations, built once at the edge and never edited."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from meswitch.policies import new_policy

__all__ = ["EngineConfig", "RouterConfig", "SchedulerConfig", "StoreConfig", "WeightKind"]

WeightKind = Literal["delta", "full"]


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
    """

    max_rows: int = 16
    max_context_tokens: int = 512
    max_queue: int = 4096
    max_wait_s: float = 2.0

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
    """

    base: Path
    experts: Mapping[str, Path]
    weights: WeightKind = "delta"
    memory_budget_bytes: int
    router: RouterConfig | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    threads: int = 1

    def __post_init__(self) -> None:
        if self.memory_budget_bytes < 1:
            raise ValueError(f"memory_budget_bytes must be positive, got {self.memory_budget_bytes}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
