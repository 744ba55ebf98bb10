"""From what a user asks to a plan: everything resolved and checked before the first file is written."""

import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import get_args

from harness.arms import Arm, check_arms, parse_arms, read_files
from harness.drivers.local import LocalDriver
from harness.engines import EngineOptions, check_budget, default_budget, engine_config, make_options, resolve_pins
from harness.errors import UsageError
from harness.headline import SHAPES_ONLY
from harness.loadgen import LoadLimits
from harness.prepare import prepare
from harness.prepared import Prepared, PrepareRequest
from harness.provenance import collect_provenance, python_command
from harness.results import Manifest, new_run_id, to_json_object
from harness.run import ArmPlan, RunPlan
from harness.schedule import RouterMode, build_schedule
from harness.shapes import is_shape_family
from harness.sizes import parse_bytes
from harness.telemetry import GpuMonitor
from harness.token_prompts import TokenPrompts
from meswitch.core import BASE
from meswitch.families import load_family
from meswitch.home import home_dir
from workloads.trace import Trace
from workloads.trace_io import find_trace, read_trace

__all__ = [
    "DEFAULT_CODEC",
    "RunOptions",
    "choose_experts",
    "describe_family",
    "family_experts",
    "parse_names",
    "plan_run",
    "warm_page_cache",
]

DEFAULT_CODEC = "salient:bits=2,channels=8,step=unbiased"
TRAINED_NOTE = "real weights; answers are checked by exact verifiers"
TOKENS_NOTE = "real weights; prompts are random tokens, answers are not looked at"
SHAPES_NOTE = "random weights of the right shapes and bytes: memory and speed, and nothing about answers"
DEFAULT_ARMS = {"cpu": "meswitch,full-swap-disk", "cuda": "meswitch,full-swap-host"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a user asks of a run, as given on the command line.

    Attributes:
        trace: a path, or the bare name of a bundled trace.
        arms: `None` for those of `DEFAULT_ARMS`.
        experts: `trace` for those that the trace asks for, `all` for the whole family, or names with commas.
        router: `None` for `llm` if the family has a router that could read the requests, else `tag`.
        memory_budget: a size, or `None` for `default_budget`.
        threads: of torch in each engine.
        device, dtype, policy, slots, kv_tokens, max_rows, max_context: as in `harness.engines`.
        pin: names with commas.
        host_budget: a size.
        allow_reference: serve what no kernel covers by plain PyTorch: the run is invalid then.
        repeats: times that each arm runs, in the order A B B A …
    """

    trace: str
    arms: str | None = None
    family: str = "pocket"
    experts: str = "trace"
    codec: str = DEFAULT_CODEC
    router: str | None = None
    memory_budget: str | None = None
    rate_scale: float = 1.0
    seed: int = 0
    warm_up: int = 3
    drain_s: float = 120.0
    threads: int = 1
    device: str = "cpu"
    dtype: str | None = None
    policy: str = "lru"
    pin: str = ""
    slots: int | None = None
    kv_tokens: int | None = None
    max_rows: int | None = None
    max_context: int | None = None
    host_budget: str | None = None
    repeats: int = 1
    allow_reference: bool = False


def plan_run(options: RunOptions, *, gpu: GpuMonitor, report: Callable[[str], None] = lambda _: None) -> RunPlan:
    """The plan of a run. Makes the family's files ready under MESWITCH_HOME, and writes nothing else.

    Raises:
        HarnessError, MeswitchError, WorkloadError: the user asks for something that is not there or cannot work.
    """
    _check_limits(options)
    engine = _engine_options(options)
    arms = parse_arms(options.arms or DEFAULT_ARMS[engine.device])
    budget = parse_bytes(options.memory_budget) if options.memory_budget else None
    path = find_trace(options.trace)
    trace = read_trace(path)
    experts = family_experts(options.family, options.experts, wanted=trace.experts, device=engine.device)
    check_arms(arms, device=engine.device, experts=experts)
    engine = replace(resolve_pins(engine, experts), router=_router_mode(options.router, options.family, trace))
    request = PrepareRequest(
        family=options.family, codec=options.codec, home=home_dir(), dtype=engine.dtype, experts=experts
    )
    prepared = prepare(request, report=report)
    schedule = build_schedule(
        trace,
        router=engine.router,
        experts=prepared.checkpoints,
        rate_scale=options.rate_scale,
        seed=options.seed,
        tokens=TokenPrompts(vocabulary=prepared.vocabulary, replaces_text=not prepared.has_text, seed=options.seed),
    )
    budget = budget or default_budget(prepared, engine)
    check_budget(arms, prepared, engine, budget=budget)
    return RunPlan(
        manifest=Manifest(
            run_id=new_run_id(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            status="partial",
            command=tuple(python_command()),
            provenance=to_json_object(collect_provenance(gpu)),
            config=to_json_object({**asdict(options), "memory_budget_bytes": budget}),
            trace=_describe_trace(trace, path, schedule[-1].due_ns / 1e9),
            family=describe_family(prepared, checks_answers=True),
            router={"mode": engine.router, "model": prepared.router.name if prepared.router else None},
        ),
        schedule=schedule,
        arms=[_plan_arm(arm, prepared, engine, budget) for arm in arms],
        warm_up=options.warm_up,
        repeats=options.repeats,
        limits=LoadLimits(drain_s=options.drain_s),
    )


def _engine_options(options: RunOptions) -> EngineOptions:
    return make_options(
        device=options.device,
        dtype=options.dtype,
        kv_tokens=options.kv_tokens,
        max_rows=options.max_rows,
        max_context=options.max_context,
        policy=options.policy,
        pinned=parse_names(options.pin),
        slots=options.slots,
        host_budget_bytes=parse_bytes(options.host_budget) if options.host_budget else None,
        threads=options.threads,
        allow_reference=options.allow_reference,
    )


def _check_limits(options: RunOptions) -> None:
    # a NaN is neither, and fails this too
    if not 0 < options.drain_s < math.inf or options.warm_up < 0 or options.threads < 1:
        raise UsageError("--drain must be positive and finite, --warm-up at least 0 and --threads at least 1")
    if options.router is not None and options.router not in get_args(RouterMode):
        raise UsageError(f"--router must be tag or llm, got {options.router!r}")
    if options.repeats < 1:
        raise UsageError(f"--repeats must be at least 1, got {options.repeats}")


def parse_names(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def family_experts(family: str, text: str, *, wanted: Collection[str], device: str) -> tuple[str, ...]:
    """The experts to serve: `choose_experts` of a trained family; of shapes, whatever names are asked for.

    Raises:
        UsageError: a name is not the family's; nobody names one; shapes have random weights, made on a GPU.
    """
    if not is_shape_family(family):
        return choose_experts(text, wanted=wanted, family=load_family(family).experts)
    if device != "cuda":
        raise UsageError(f"{family} is a shape without weights, and random ones are made on a GPU: give --device cuda")
    names = tuple(sorted(set(wanted) - {BASE})) if text in ("trace", "all") else parse_names(text)
    if not names:
        raise UsageError(f"{family} is a shape and has no experts of its own: the trace or --experts must name them")
    return names


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


def _plan_arm(arm: Arm, prepared: Prepared, options: EngineOptions, budget: int) -> ArmPlan:
    config = engine_config(arm, prepared, options, budget=budget)
    folders = [config.base, *config.experts.values()]
    if config.router is not None:
        folders.append(config.router.model)
    return ArmPlan(
        name=arm.name,
        description=arm.description,
        page_cache=arm.page_cache(options.device),
        config=to_json_object(config),
        make_driver=partial(LocalDriver, config),
        before=lambda: warm_page_cache(folders),
        may_not_fit=arm.every,
    )


def warm_page_cache(folders: Collection[Path]) -> None:
    """Read the files below `folders`, each folder once."""
    read_files(sorted(set(folders)))


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


def describe_family(prepared: Prepared, *, checks_answers: bool) -> dict[str, str | int | float | None]:
    """What a manifest says of a family, as flat values.

    Args:
        checks_answers: whether what is measured asks for answers and checks them; else its prompts are random tokens.
    """
    trained = TRAINED_NOTE if checks_answers else TOKENS_NOTE
    sizes = prepared.sizes.values()
    experts = len(sizes)
    return {
        "name": prepared.family,
        "kind": "trained" if prepared.has_text else SHAPES_ONLY,
        "note": trained if prepared.has_text else SHAPES_NOTE,
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


def _router_mode(text: str | None, family: str, trace: Trace) -> RouterMode:
    if text is None:
        has_text = all(item.input_length is None and item.token_ids is None for item in trace.requests)
        return "llm" if has_text and not is_shape_family(family) else "tag"
    if text == "llm" and is_shape_family(family):
        raise UsageError(f"{family} is a shape and has no router; use --router tag")
    return "llm" if text == "llm" else "tag"
