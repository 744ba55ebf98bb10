"""An arm's engine: the configuration that it starts with, and whether it can hold what one request needs."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from pydantic import JsonValue

from harness.arms import Arm
from harness.errors import UsageError
from harness.prepared import Prepared
from harness.results import to_json_object
from harness.schedule import RouterMode
from harness.sizes import format_bytes
from meswitch.config import DeviceConfig, EngineConfig, RouterConfig, SchedulerConfig, StoreConfig, SyntheticConfig
from meswitch.core import BASE

__all__ = [
    "DEFAULT_CUDA_BUDGET",
    "DeviceKind",
    "Dtype",
    "EngineOptions",
    "check_budget",
    "default_budget",
    "describe_engine",
    "engine_config",
    "make_options",
    "resolve_pins",
]

DeviceKind = Literal["cpu", "cuda"]
Dtype = Literal["bfloat16", "float16", "float32"]

DENSE_EXPERTS = 2
DEFAULT_CUDA_BUDGET = 76 * 2**30

NAMED = 4
"""Of many experts, so many are named where one was not found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What all arms of a comparison share.

    Attributes:
        router: `tag` for requests that name their expert.
        device, dtype: where it computes, and in what; a CPU computes in float32.
        policy, pinned: who makes room, and who never does.
        slots: experts on the device at once; `None` for as many as fit.
        max_rows, max_context_tokens: of the batch; their product is the room for keys and values.
        host_budget_bytes: of pinned host memory; `None` for what all experts take.
        threads: of torch.
        allow_reference: serve what no kernel covers by plain PyTorch; no result of it is a benchmark.
    """

    router: RouterMode = "tag"
    device: DeviceKind = "cpu"
    dtype: Dtype = "float32"
    policy: str = "lru"
    pinned: tuple[str, ...] = ()
    slots: int | None = None
    max_rows: int = 16
    max_context_tokens: int = 512
    host_budget_bytes: int | None = None
    threads: int = 1
    allow_reference: bool = False

    def __post_init__(self) -> None:
        # of the engine's own configurations: what they refuse is refused before anything is made
        StoreConfig(policy=self.policy)
        if self.threads < 1:
            raise UsageError(f"--threads must be at least 1, got {self.threads}")
        if self.slots is not None and not max(1, len(set(self.pinned))) <= self.slots:
            raise UsageError(
                f"--slots must hold the pinned experts and be at least 1: {len(set(self.pinned))} are pinned, "
                f"got {self.slots}"
            )


def make_options(
    *,
    device: str,
    dtype: str | None,
    kv_tokens: int | None = None,
    max_rows: int | None = None,
    max_context: int | None = None,
    **rest: object,
) -> EngineOptions:
    """The options as a command line gives them.

    Args:
        dtype: `None` for bfloat16 on a GPU and float32 on a CPU, which knows no other.
        kv_tokens: room for keys and values: so many tokens, spread over the rows; instead of `max_context`.

    Raises:
        UsageError: a value is not allowed, or two do not go together.
    """
    if device not in get_args(DeviceKind):
        raise UsageError(f"--device must be one of {', '.join(get_args(DeviceKind))}, got {device!r}")
    dtype = dtype or ("bfloat16" if device == "cuda" else "float32")
    if dtype not in get_args(Dtype) or (device == "cpu" and dtype != "float32"):
        known = ", ".join(get_args(Dtype)) if device == "cuda" else "float32 on a CPU"
        raise UsageError(f"--dtype must be {known}, got {dtype!r}")
    rows = 16 if max_rows is None else max_rows
    context = (512 if device == "cpu" else 2048) if max_context is None else max_context
    if min(rows, context) < 1 or (kv_tokens is not None and kv_tokens < rows):
        raise UsageError(
            f"--max-rows and --max-context must be at least 1, and --kv-tokens at least one a row, "
            f"got {rows}, {context} and {kv_tokens}"
        )
    if kv_tokens is not None:
        if max_context is not None and max_context * rows != kv_tokens:
            raise UsageError(
                f"--kv-tokens must be --max-rows times --max-context, got {kv_tokens} for {rows} x {max_context}; "
                "give two of the three"
            )
        context = kv_tokens // rows
    return EngineOptions(device=device, dtype=dtype, max_rows=rows, max_context_tokens=context, **rest)  # type: ignore[arg-type]


def resolve_pins(options: EngineOptions, experts: Collection[str]) -> EngineOptions:
    """The options with every pin under its expert's own name, once: whatever its case, and the base may be pinned too.

    Args:
        options: pins as a user wrote them.
        experts: of all engines together; the base is not among them.

    Raises:
        UsageError: a pin is none of them.
    """
    known = {name.casefold(): name for name in (*experts, BASE)}
    if unknown := [name for name in options.pinned if name.casefold() not in known]:
        first, more = list(experts)[:NAMED], len(experts) - NAMED
        raise UsageError(
            f"--pin names {', '.join(unknown)}, which no engine serves; there are {', '.join((BASE, *first))}"
            + (f" and {more} more" if more > 0 else "")
        )
    return replace(options, pinned=tuple(dict.fromkeys(known[name.casefold()] for name in options.pinned)))


def default_budget(prepared: Prepared, options: EngineOptions) -> int:
    """What all weights may take, where nobody said.

    On a GPU, what an 80 GB card has to use. On a CPU: router, base, all codes, and a dense cache of two experts, which
    is what the delta arm works well with. It is also the memory of an owner who cannot hold every model: the same
    bytes hold router and three whole models of the eight, if codes take less than a model.
    """
    if options.device == "cuda":
        return DEFAULT_CUDA_BUDGET
    sizes = prepared.sizes.values()
    dense_cache = DENSE_EXPERTS * max(size.dense for size in sizes)
    return _router_bytes(prepared, options) + prepared.model_bytes + sum(size.whole for size in sizes) + dense_cache


def check_budget(arms: Sequence[Arm], prepared: Prepared, options: EngineOptions, *, budget: int) -> None:
    """Nothing, if every arm can hold what one request needs.

    Raises:
        UsageError: it is too small: says what is needed.
    """
    for arm in arms:
        needed = needed_bytes(arm, prepared, options)
        if budget < needed:
            raise UsageError(
                f"--memory-budget must hold router, base and one expert: {arm.name} needs "
                f"{format_bytes(needed)}, got {format_bytes(budget)}"
            )


def needed_bytes(arm: Arm, prepared: Prepared, options: EngineOptions) -> int:
    """Weights that an arm must hold to serve one request: a lower bound of what its engine asks for."""
    needed = _router_bytes(prepared, options) + prepared.model_bytes
    if arm.weights == "delta":
        needed += max(options.slots or 1, 1) * max(size.whole for size in prepared.sizes.values())
    return needed


def engine_config(arm: Arm, prepared: Prepared, options: EngineOptions, *, budget: int) -> EngineConfig:
    """The arm's engine. Arms differ in weights, where those come from, how many fit, and the order of loads alone."""
    routing = None
    if options.router == "llm":
        assert prepared.router is not None
        routing = RouterConfig(model=prepared.router, domains=dict(prepared.domains))
    experts = dict(arm.files(prepared))
    return EngineConfig(
        base=prepared.base,
        experts=experts,
        weights=arm.weights,
        memory_budget_bytes=budget,
        router=routing,
        scheduler=SchedulerConfig(
            max_rows=options.max_rows, max_context_tokens=options.max_context_tokens, order=arm.order
        ),
        store=StoreConfig(policy=options.policy, pinned=_everyone(experts) if arm.every else options.pinned),
        threads=options.threads,
        device=_device(arm, options, experts=len(experts), is_synthetic=prepared.synthetic is not None),
        synthetic=_synthetic(arm, prepared, options),
    )


def describe_engine(config: EngineConfig) -> dict[str, JsonValue]:
    """What a record says of an engine: no places of a machine, and how many experts instead of all their names."""
    plain = to_json_object({**asdict(config), "experts": len(config.experts), "base": config.base.name})
    if config.router is not None:
        plain["router"] = config.router.model.name
    return plain


def _everyone(experts: Collection[str]) -> tuple[str, ...]:
    """Pins that ask for a place for each expert: all but one, for which an engine keeps a place anyway."""
    return tuple(experts)[:-1]


def _device(arm: Arm, options: EngineOptions, *, experts: int, is_synthetic: bool) -> DeviceConfig:
    if options.device == "cpu":
        return DeviceConfig()
    return DeviceConfig(
        kind="cuda",
        dtype=options.dtype,
        host_budget_bytes=None if is_synthetic else options.host_budget_bytes,
        slots=min(options.slots, experts) if arm.weights == "delta" and options.slots else None,
        model_buffers=experts if arm.every else arm.buffers,
        model_source=arm.source,
        allow_reference=options.allow_reference,
    )


def _synthetic(arm: Arm, prepared: Prepared, options: EngineOptions) -> SyntheticConfig | None:
    synthetic = prepared.synthetic
    if synthetic is None or options.host_budget_bytes is None:
        return synthetic
    # experts beyond what the host may hold share its images: the bytes are really moved, and the result says so
    image = prepared.model_bytes if arm.weights == "full" else max(size.whole for size in prepared.sizes.values())
    images = min(max(options.host_budget_bytes // image, 1), len(prepared.sizes))
    return replace(synthetic, host_images=images)


def _router_bytes(prepared: Prepared, options: EngineOptions) -> int:
    return prepared.router_bytes if options.router == "llm" else 0
