"""The weights an engine can compute with, within one memory budget.

DeltaPool: the base, always; codes of experts, as the policy says; what is left is dense cache
WholePool: whole models, the base among them, as the policy says
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from typing import Protocol

from meswitch.architecture import Architecture
from meswitch.config import StoreConfig
from meswitch.core import BASE
from meswitch.delta import ExpertDelta
from meswitch.dense_cache import DenseCache
from meswitch.policies import new_policy
from meswitch.store import ExpertStore, Loaded, LoadFailed, Source
from meswitch.weights import DeltaWeights, ExpertWeights, WholeModel, formed_bytes

__all__ = ["DeltaPool", "Leased", "Pool", "WholePool"]


class Leased(Protocol):
    """The weights of one expert, in the form that the batch of the same device computes with."""

    @property
    def vocabulary(self) -> int:
        """Rows of the expert's embedding."""


class Pool(Protocol):
    """Experts by name, some of them in memory.

    Attributes:
        eager: whether an expert may be used while it is still on its way. The engine says so when nothing runs that
            would have to wait with it.
    """

    eager: bool

    @property
    def slots(self) -> int | None:
        """Experts that fit at once; `None` where bytes decide and not places."""

    @property
    def resident(self) -> Collection[str]:
        """Experts that a row can be computed with now."""

    @property
    def loading(self) -> Collection[str]:
        """Experts that will be resident soon."""

    @property
    def weight_bytes(self) -> Mapping[str, int]:
        """Bytes by part, as they are now."""

    @property
    def counters(self) -> Mapping[str, int]:
        """`switches`, `evictions`, `moved_bytes` since start."""

    @property
    def tier_counters(self) -> Mapping[str, int]:
        """What moved between tiers since start; empty where there is one tier only."""

    def request(self, expert: str, *, keep: Collection[str] = ()) -> bool:
        """Whether `expert` is resident or on its way; nothing in `keep` is evicted for it."""

    def poll(self) -> Sequence[Loaded | LoadFailed]:
        """Switches that ended since the last call."""

    def lease(self, expert: str) -> Leased:
        """The weights of a resident expert, which stays until `release`."""

    def release(self, expert: str) -> None:
        """Give back one lease."""

    def check_integrity(self) -> None:
        """Nothing, if the books agree with memory; `EngineError` else."""

    def close(self) -> None:
        """Free all weights."""


class DeltaPool:
    """The base for ever, experts as codes, and dense matrices of those in use as far as there is room.

    Args:
        base: all rows compute with it, or with something added to it.
        sources: of the experts, without the base.
        architecture: of all of them.
        capacity_bytes: for codes and dense matrices together; codes come first.
        executor: reads experts.
        config: who makes room, and who never does; the base, which always stays, may be pinned too.
    """

    def __init__(
        self,
        base: WholeModel,
        sources: Mapping[str, Source[ExpertDelta]],
        *,
        architecture: Architecture,
        capacity_bytes: int,
        executor: Executor,
        config: StoreConfig | None = None,
    ) -> None:
        config = config or StoreConfig()
        self.eager = True
        # matrices are kept only where the codes of all experts fit: those never have to go then
        codes_bytes = min(capacity_bytes, sum(source.nbytes for source in sources.values()))
        self._base = base
        self._architecture = architecture
        self._store = ExpertStore(
            sources,
            capacity_bytes=codes_bytes,
            executor=executor,
            policy=new_policy(config.policy),
            pinned=[name for name in config.pinned if name != BASE],
        )
        self._dense = DenseCache(capacity_bytes - codes_bytes)
        self._leases: Counter[str] = Counter()
        self._in_dense: set[str] = set()

    @property
    def slots(self) -> None:
        """Nothing: bytes decide."""
        return None

    @property
    def resident(self) -> Collection[str]:
        """The base, and experts whose codes are in memory."""
        return {BASE, *self._store.resident}

    @property
    def loading(self) -> Collection[str]:
        """Experts whose codes are being read."""
        return self._store.loading

    @property
    def weight_bytes(self) -> Mapping[str, int]:
        """Bytes of base, codes and dense cache."""
        return {
            "base": self._base.nbytes,
            "codes": self._store.used_bytes,
            "dense_cache": self._dense.used_bytes,
        }

    @property
    def counters(self) -> Mapping[str, int]:
        """`switches`, `evictions`, `moved_bytes` since start."""
        return self._store.counters

    @property
    def tier_counters(self) -> Mapping[str, int]:
        """Nothing: there is one tier."""
        return {}

    def request(self, expert: str, *, keep: Collection[str] = ()) -> bool:
        """Whether `expert` is resident or on its way; nothing in `keep` is evicted for it."""
        return expert == BASE or self._store.request(expert, keep=keep)

    def poll(self) -> Sequence[Loaded | LoadFailed]:
        """Switches that ended since the last call."""
        return self._store.poll()

    def lease(self, expert: str) -> ExpertWeights:
        """The weights of a resident expert, which stays until `release`."""
        if expert == BASE:
            return self._base
        delta = self._store.lease(expert)
        self._leases[expert] += 1
        if expert not in self._in_dense and self._dense.lease(expert, formed_bytes(delta)):
            self._in_dense.add(expert)
        return DeltaWeights(expert, base=self._base, delta=delta, cache=self._dense, architecture=self._architecture)

    def release(self, expert: str) -> None:
        """Give back one lease."""
        if expert == BASE:
            return
        self._store.release(expert)
        self._leases[expert] -= 1
        if not self._leases[expert] and expert in self._in_dense:
            self._in_dense.remove(expert)
            self._dense.release(expert)

    def check_integrity(self) -> None:
        """Nothing, if the books agree with memory; `EngineError` else."""
        self._store.check_integrity()
        self._dense.check_integrity()

    def close(self) -> None:
        """Free the codes; loads that run are waited for."""
        self._store.clear()


class WholePool:
    """Whole models, the base being one more of them.

    Args:
        sources: of all models, the base among them.
        capacity_bytes: for whole models.
        executor: reads them.
        config: who makes room, and who never does.
    """

    def __init__(
        self,
        sources: Mapping[str, Source[WholeModel]],
        *,
        capacity_bytes: int,
        executor: Executor,
        config: StoreConfig | None = None,
    ) -> None:
        config = config or StoreConfig()
        self.eager = True
        self._store = ExpertStore(
            sources,
            capacity_bytes=capacity_bytes,
            executor=executor,
            policy=new_policy(config.policy),
            pinned=config.pinned,
        )

    @property
    def slots(self) -> None:
        """Nothing: bytes decide."""
        return None

    @property
    def resident(self) -> Collection[str]:
        """Models in memory."""
        return self._store.resident

    @property
    def loading(self) -> Collection[str]:
        """Models that are being read."""
        return self._store.loading

    @property
    def weight_bytes(self) -> Mapping[str, int]:
        """Bytes of whole models."""
        return {"experts": self._store.used_bytes}

    @property
    def counters(self) -> Mapping[str, int]:
        """`switches`, `evictions`, `moved_bytes` since start."""
        return self._store.counters

    @property
    def tier_counters(self) -> Mapping[str, int]:
        """Nothing: there is one tier."""
        return {}

    def request(self, expert: str, *, keep: Collection[str] = ()) -> bool:
        """Whether `expert` is resident or on its way; nothing in `keep` is evicted for it."""
        return self._store.request(expert, keep=keep)

    def poll(self) -> Sequence[Loaded | LoadFailed]:
        """Switches that ended since the last call."""
        return self._store.poll()

    def lease(self, expert: str) -> ExpertWeights:
        """The weights of a resident model, which stays until `release`."""
        return self._store.lease(expert)

    def release(self, expert: str) -> None:
        """Give back one lease."""
        self._store.release(expert)

    def check_integrity(self) -> None:
        """Nothing, if the books agree with memory; `EngineError` else."""
        self._store.check_integrity()

    def close(self) -> None:
        """Free all models; loads that run are waited for."""
        self._store.clear()
