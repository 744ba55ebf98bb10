"""From what a user asks to a plan: everything resolved and checked before the first file is written."""

import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import get_args

from harness.arms import PAGE_CACHE, Arm, check_budget, default_budget, engine_config, parse_arms, read_files
from harness.drivers.local import LocalDriver
from harness.errors import UsageError
from harness.loadgen import LoadLimits
from harness.prepare import Prepared, PrepareRequest, prepare
from harness.provenance import collect_provenance, python_command
from harness.results import Manifest, new_run_id, to_json_object
from harness.run import ArmPlan, RunPlan
from harness.schedule import RouterMode, build_schedule
from harness.sizes import parse_bytes
from harness.telemetry import GpuMonitor
from meswitch.core import BASE
from meswitch.families import load_family
from meswitch.home import home_dir
from workloads.trace import Trace
from workloads.trace_io import find_trace, read_trace

__all__ = ["DEFAULT_CODEC", "RunOptions", "choose_experts", "plan_run"]

DEFAULT_CODEC = "salient:bits=2,channels=8,step=unbiased"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a user asks of a run, as given on the command line.

    Attributes:
        trace: a path, or the bare name of a bundled trace.
        experts: `trace` for those that the trace asks for, `all` for the whole family, or names with commas.
        memory_budget: a size, or `None` for `default_budget`.
        threads: of torch in each engine.
    """

    trace: str
    arms: str = "meswitch,full-swap-disk"
    family: str = "pocket"
    experts: str = "trace"
    codec: str = DEFAULT_CODEC
    router: str = "llm"
    memory_budget: str | None = None
    rate_scale: float = 1.0
    seed: int = 0
    warm_up: int = 3
    drain_s: float = 120.0
    threads: int = 1


def plan_run(options: RunOptions, *, gpu: GpuMonitor, report: Callable[[str], None] = lambda _: None) -> RunPlan:
    """The plan of a run. Makes the family's files ready under MESWITCH_HOME, and writes nothing else.

    Raises:
        HarnessError, MeswitchError, WorkloadError: the user asks for something that is not there or cannot work.
    """
    arms = parse_arms(options.arms)
    router = _router_mode(options.router)
    budget = parse_bytes(options.memory_budget) if options.memory_budget else None
    # a NaN is neither, and fails this too
    if not 0 < options.drain_s < math.inf or options.warm_up < 0 or options.threads < 1:
        raise UsageError("--drain must be positive and finite, --warm-up at least 0 and --threads at least 1")
    path = find_trace(options.trace)
    trace = read_trace(path)
    experts = choose_experts(options.experts, wanted=trace.experts, family=load_family(options.family).experts)
    request = PrepareRequest(family=options.family, codec=options.codec, home=home_dir(), experts=experts)
    prepared = prepare(request, report=report)
    schedule = build_schedule(
        trace, router=router, experts=prepared.checkpoints, rate_scale=options.rate_scale, seed=options.seed
    )
    budget = budget or default_budget(prepared, router=router)
    check_budget(arms, prepared, router=router, budget=budget)
    return RunPlan(
        manifest=Manifest(
            run_id=new_run_id(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            status="partial",
            command=tuple(python_command()),
            provenance=to_json_object(collect_provenance(gpu)),
            config=to_json_object({**asdict(options), "memory_budget_bytes": budget}),
            trace=_describe_trace(trace, path, schedule[-1].due_ns / 1e9),
            family=_describe_family(prepared),
            router={"mode": router, "model": prepared.router.name},
        ),
        schedule=schedule,
        arms=[_plan_arm(arm, prepared, router, budget, options.threads) for arm in arms],
        warm_up=options.warm_up,
        limits=LoadLimits(drain_s=options.drain_s),
    )


def choose_experts(text: str, *, wanted: Collection[str], family: Collection[str]) -> tuple[str, ...]:
    """The experts to serve, in the family's order.

    Args:
        text: `trace`, `all`, or names with commas.
        wanted: the experts that the trace asks for; if it names none, `trace` means all.
        family: the experts that there are.

    Raises:
        UsageError: a name is not the family's.
    """
    if text == "all" or (text == "trace" and not wanted):
        return tuple(family)
    names = set(wanted) - {BASE} if text == "trace" else {name.strip() for name in text.split(",")}
    if unknown := sorted(names - set(family)):
        where = "the trace asks for" if text == "trace" else "--experts names"
        raise UsageError(f"{where} {', '.join(unknown)}, which the family does not have; it has {', '.join(family)}")
    return tuple(name for name in family if name in names)


def _plan_arm(arm: Arm, prepared: Prepared, router: RouterMode, budget: int, threads: int) -> ArmPlan:
    config = engine_config(arm, prepared, router=router, budget=budget, threads=threads)
    folders = [config.base, *config.experts.values()]
    if config.router is not None:
        folders.append(config.router.model)
    return ArmPlan(
        name=arm.name,
        description=arm.description,
        page_cache=PAGE_CACHE,
        config=to_json_object(config),
        make_driver=partial(LocalDriver, config),
        before=lambda: _warm_page_cache(folders),
    )


def _warm_page_cache(folders: list[Path]) -> None:
    read_files(folders)


def _describe_trace(trace: Trace, path: Path, duration_s: float) -> dict[str, str | int | float | None]:
    return {
        "name": trace.header.name,
        "path": str(path),
        "sha256": trace.sha256,
        "requests": len(trace.requests),
        "duration_s": duration_s,
        "source": trace.header.source,
        "seed": trace.header.seed,
    }


def _describe_family(prepared: Prepared) -> dict[str, str | int | float | None]:
    sizes = prepared.sizes.values()
    experts = len(sizes)
    return {
        "name": prepared.family,
        "kind": "trained",
        "note": "real weights; answers are checked by exact verifiers",
        "weights_hash": prepared.weights_hash,
        "experts": experts,
        "model_bytes": prepared.model_bytes,
        "router_bytes": prepared.router_bytes,
        "delta_bytes": sum(size.whole for size in sizes),
        "delta_bytes_linears": sum(size.linears for size in sizes),
        "bits_per_weight": sum(size.bits_per_weight for size in sizes) / experts,
        "bits_per_weight_whole": sum(size.bits_per_weight_whole for size in sizes) / experts,
        "codec": prepared.codec,
    }


def _router_mode(text: str) -> RouterMode:
    for mode in get_args(RouterMode):
        if text == mode:
            return mode  # type: ignore[no-any-return]
    raise UsageError(f"--router must be tag or llm, got {text!r}")
