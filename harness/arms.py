"""The systems that a run can compare. They share engine, router, scheduler, limits and memory budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UnknownArmError, UsageError
from harness.prepare import Prepared
from harness.schedule import RouterMode
from harness.sizes import format_bytes
from meswitch.config import EngineConfig, RouterConfig, SchedulerConfig, WeightKind

__all__ = ["ARMS", "Arm", "check_budget", "default_budget", "engine_config", "parse_arms", "read_files"]

DENSE_EXPERTS = 2
PAGE_CACHE = "warm: all files of the arm were read just before it started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One system under comparison."""

    name: str
    weights: WeightKind
    description: str

    def files(self, prepared: Prepared) -> Mapping[str, Path]:
        """Where this arm reads its experts from."""
        return prepared.deltas if self.weights == "delta" else prepared.checkpoints


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(
            name="meswitch",
            weights="delta",
            description="one base and each expert's compressed delta; a batch mixes experts row by row",
        ),
        Arm(
            name="full-swap-disk",
            weights="full",
            description="whole models, loaded from disk when asked for, least recently used evicted",
        ),
    )
}


def parse_arms(text: str) -> tuple[Arm, ...]:
    """The arms of a comma-separated list, in the order in which they will run.

    Raises:
        UnknownArmError: there is no such arm.
        UsageError: the list is empty or names one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"--arms must name each arm once, separated by commas, got {text!r}")
    for name in names:
        if name not in ARMS:
            raise UnknownArmError(f"no arm is called {name!r}; there are {', '.join(ARMS)}")
    return tuple(ARMS[name] for name in names)


def default_budget(prepared: Prepared, *, router: RouterMode) -> int:
    """Router, base, all codes, and a dense cache of two experts: what the delta arm works well with.

    It is also the memory of an owner who cannot hold every model: the same bytes hold router and three whole models of
    the eight, if codes take less than a model.
    """
    router_bytes = prepared.router_bytes if router == "llm" else 0
    sizes = prepared.sizes.values()
    dense_cache = DENSE_EXPERTS * max(size.dense for size in sizes)
    return router_bytes + prepared.model_bytes + sum(size.whole for size in sizes) + dense_cache


def check_budget(arms: Sequence[Arm], prepared: Prepared, *, router: RouterMode, budget: int) -> None:
    """Nothing, if every arm can hold what one request needs.

    Raises:
        UsageError: it is too small: says what is needed.
    """
    router_bytes = prepared.router_bytes if router == "llm" else 0
    for arm in arms:
        needed = router_bytes + prepared.model_bytes
        if arm.weights == "delta":
            needed += max(size.whole for size in prepared.sizes.values())
        if budget < needed:
            raise UsageError(
                f"--memory-budget must hold router, base and one expert: {arm.name} needs "
                f"{format_bytes(needed)}, got {format_bytes(budget)}"
            )


def engine_config(arm: Arm, prepared: Prepared, *, router: RouterMode, budget: int, threads: int = 1) -> EngineConfig:
    """The arm's engine. Arms differ in `experts` and `weights` alone."""
    routing = None
    if router == "llm":
        routing = RouterConfig(model=prepared.router, domains=dict(prepared.domains))
    return EngineConfig(
        base=prepared.base,
        experts=dict(arm.files(prepared)),
        weights=arm.weights,
        memory_budget_bytes=budget,
        router=routing,
        scheduler=SchedulerConfig(),
        threads=threads,
    )


def read_files(folders: Sequence[Path]) -> int:
    """Read every file below `folders` and forget it, so that the page cache holds them; the bytes read."""
    total = 0
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(1 << 20):
                    total += len(chunk)
    return total
