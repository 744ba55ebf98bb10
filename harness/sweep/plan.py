"""A sweep resolved and checked before the first engine starts: its cells, and the engines that serve them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.arms import Arm, check_arms
from harness.engines import EngineOptions, check_budget, engine_config, resolve_pins
from harness.errors import UsageError
from harness.prepare import prepare
from harness.prepared import Prepared, PrepareRequest
from harness.shapes import is_shape_family
from harness.sweep.cells import Cell, Grid
from harness.sweep.results import config_hash
from harness.sweep.workload import Workload
from meswitch.config import EngineConfig
from meswitch.core import BASE
from meswitch.families import load_family
from meswitch.families.shape_family import ShapeFamily
from meswitch.home import home_dir

__all__ = ["EngineGroup", "PlannedCell", "SweepPlan", "engine_groups", "plan_sweep", "refusal", "sweep_experts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What to sweep, and with what.

    Attributes:
        experts: names, as many as the largest cell asks for; a smaller cell takes the first ones.
        kv_bytes: of the budget that no weights can have, because keys and values do.
        commit: of the code, as a user says it where it is not a git checkout.
    """

    grid: Grid
    workload: Workload
    options: EngineOptions
    prepared: Prepared
    experts: tuple[str, ...]
    kv_bytes: int = 0
    commit: str | None = None

    def config(self) -> dict[str, Any]:
        """What is the same in every cell, as flat values."""
        options = {f"engine_{name}": value for name, value in asdict(self.options).items()}
        return {**asdict(self.workload), **options, "codec": self.prepared.codec, "family": self.prepared.family}

    @property
    def configuration(self) -> str:
        """Sixteen letters that change with whatever is the same in every cell, the weights included."""
        return config_hash({**self.config(), "weights": self.prepared.weights_hash})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A cell, and what its result goes by."""

    cell: Cell
    experts: tuple[str, ...]
    config_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineGroup:
    """Cells that one engine serves, one after the other."""

    arm: Arm
    config: EngineConfig
    cells: tuple[PlannedCell, ...]

    @property
    def experts(self) -> int:
        """That the engine has."""
        return len(self.config.experts)


def plan_sweep(
    grid: Grid,
    workload: Workload,
    options: EngineOptions,
    *,
    family: str,
    codec: str,
    commit: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> SweepPlan:
    """The plan. Makes the family's files ready under MESWITCH_HOME, and writes nothing else.

    Raises:
        HarnessError, MeswitchError: something that is asked for is not there or cannot work: with the numbers.
    """
    asked = 1 if all(arm.lone for arm in grid.arms) else max(grid.experts)
    experts = sweep_experts(family, asked, device=options.device)
    for arm in grid.arms:
        check_arms([arm], device=options.device, experts=experts[:1] if arm.lone else experts)
    options = resolve_pins(options, experts)
    needed = workload.prompt_tokens + workload.output_tokens
    if needed > options.max_context_tokens:
        raise UsageError(
            f"--prompt-tokens and --output-tokens must fit into --max-context: {workload.prompt_tokens} + "
            f"{workload.output_tokens} are more than {options.max_context_tokens}"
        )
    request = PrepareRequest(family=family, codec=codec, home=home_dir(), dtype=options.dtype, experts=experts)
    plan = SweepPlan(
        grid=grid,
        workload=workload,
        options=options,
        prepared=prepare(request, report=report),
        experts=experts,
        commit=commit,
    )
    plan = replace(plan, kv_bytes=_kv_bytes(plan))
    _check_budgets(plan)
    return plan


def sweep_experts(family: str, count: int, *, device: str) -> tuple[str, ...]:
    """Names of `count` experts.

    Raises:
        UsageError: the family has fewer, or is a shape and the device no GPU.
    """
    if is_shape_family(family):
        if device != "cuda":
            raise UsageError(
                f"{family} is a shape without weights, and random ones are made on a GPU: give --device cuda"
            )
        return ShapeFamily(name=family, config_dir=Path(family)).experts(count)
    names = tuple(load_family(family).experts)
    if count > len(names):
        raise UsageError(f"--experts asks for {count} experts, and {family} has {len(names)}")
    return names[:count]


def _check_budgets(plan: SweepPlan) -> None:
    """A budget that holds no model is a result for the arm that is to hold all of them, and a mistake for the rest."""
    for budget in plan.grid.budgets:
        check_budget([arm for arm in plan.grid.arms if not arm.every], plan.prepared, plan.options, budget=budget)


def _kv_bytes(plan: SweepPlan) -> int:
    options = plan.options
    if options.device != "cuda":
        # a CPU's budget is of weights alone
        return 0
    import torch

    from meswitch.architecture import read_config
    from meswitch.cuda.decoder_shape import decoder_shape
    from meswitch.cuda.kv_cache import kv_bytes

    config = read_config(plan.prepared.base)
    shape = decoder_shape(config, tied=bool(getattr(config, "tie_word_embeddings", False)))
    tokens = min(options.max_context_tokens, getattr(config, "max_position_embeddings", None) or sys.maxsize)
    return kv_bytes(shape, rows=options.max_rows, tokens=tokens, dtype=getattr(torch, options.dtype))


def refusal(plan: SweepPlan, group: EngineGroup) -> str | None:
    """Why the group's experts cannot all stay in its memory; `None` if they may, or need not."""
    model, budget = plan.prepared.model_bytes, group.config.memory_budget_bytes
    needed = group.experts * model + plan.kv_bytes
    if not group.arm.every or needed <= budget:
        return None
    return (
        f"memory must hold {group.experts} whole models of {model} bytes and {plan.kv_bytes} of keys and values = "
        f"{needed} bytes, and the budget is {budget}"
    )


def engine_groups(plan: SweepPlan) -> Iterator[EngineGroup]:
    """The cells by the engine that serves them, in the order in which they are measured."""
    for (arm_name, experts, _, _), cells in groupby(plan.grid.cells(), key=lambda cell: _engine_key(plan, cell)):
        members = tuple(cells)
        arm = plan.grid.arm(arm_name)
        config = _config(plan, arm, members[0], plan.experts[:experts])
        yield EngineGroup(arm=arm, config=config, cells=tuple(_planned(plan, arm, cell) for cell in members))


def _config(plan: SweepPlan, arm: Arm, cell: Cell, names: Sequence[str]) -> EngineConfig:
    prepared = plan.prepared
    part = replace(
        prepared,
        checkpoints={name: prepared.checkpoints[name] for name in names},
        deltas={name: prepared.deltas[name] for name in names},
        sizes={name: prepared.sizes[name] for name in names},
    )
    pinned = tuple(name for name in plan.options.pinned if name in (*names, BASE))
    options = replace(plan.options, policy=cell.policy, pinned=pinned)
    return engine_config(arm, part, options, budget=cell.budget_bytes)


def _engine_key(plan: SweepPlan, cell: Cell) -> tuple[str, int, str, int]:
    """What decides an engine: with how many experts it starts is the cell's, or more where its memory is the same."""
    arm, most = plan.grid.arm(cell.arm), len(plan.experts)
    experts = cell.experts
    if not arm.every and not arm.lone and experts >= _most_slots(plan, arm, cell.budget_bytes):
        experts = most
    return cell.arm, experts, cell.policy, cell.budget_bytes


def _most_slots(plan: SweepPlan, arm: Arm, budget: int) -> int:
    """More experts than this cannot be on the device at once, so that its memory holds the same for all of them."""
    if arm.weights == "full":
        # so many buffers are made on a GPU, however few experts there are; on a CPU, the budget says how many
        is_fixed = arm.buffers is not None and plan.options.device == "cuda"
        return 1 if is_fixed else (budget - plan.kv_bytes) // plan.prepared.model_bytes
    if plan.options.slots is not None:
        return plan.options.slots
    slot = max(size.whole for size in plan.prepared.sizes.values())
    return (budget - plan.prepared.model_bytes - plan.kv_bytes) // slot


def _planned(plan: SweepPlan, arm: Arm, cell: Cell) -> PlannedCell:
    facts = {**plan.config(), "cell": asdict(cell), "arm": asdict(arm), "weights": plan.prepared.weights_hash}
    return PlannedCell(cell=cell, experts=plan.experts[: cell.experts], config_hash=config_hash(facts))
