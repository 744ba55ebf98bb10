"""Which expert makes room for another: eviction policies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from meswitch.errors import UnknownPolicyError
from meswitch.policies.base import EvictionPolicy
from meswitch.policies.belady import BeladyPolicy
from meswitch.policies.greedy_dual import GreedyDualPolicy
from meswitch.policies.lfu import LfuPolicy
from meswitch.policies.lru import LruPolicy

__all__ = ["POLICIES", "BeladyPolicy", "EvictionPolicy", "GreedyDualPolicy", "LfuPolicy", "LruPolicy", "new_policy"]

POLICIES: Mapping[str, Callable[[], EvictionPolicy]] = MappingProxyType(
    {"lru": LruPolicy, "lfu": LfuPolicy, "cost-aware": GreedyDualPolicy}
)
"""The policies an engine can serve by. `belady` is none of them: it needs the future."""


def new_policy(name: str) -> EvictionPolicy:
    """A policy that has seen nothing yet.

    Raises:
        UnknownPolicyError: there is none of that name.
    """
    if name not in POLICIES:
        raise UnknownPolicyError(f"a policy must be one of {', '.join(POLICIES)}, got {name!r}")
    return POLICIES[name]()
