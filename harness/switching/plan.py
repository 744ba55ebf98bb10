"""The systems whose switches are measured, each resolved and checked before the first one starts."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

from harness.arms import ARMS
from harness.engines import EngineOptions, check_budget, engine_config
from harness.errors import UsageError
from harness.prepare import prepare
from harness.prepared import Prepared, PrepareRequest
from harness.sweep.plan import sweep_experts
from meswitch.config import EngineConfig
from meswitch.home import home_dir

__all__ = ["Case", "Setting", "SwitchingOptions", "SwitchingPlan", "plan_switching"]

Case = Literal["host", "plane", "disk", "disk-cold"]
"""Where a missing expert is: in pinned host memory; there, in bit planes of which the first serves alone; in a file,
read through the page cache, or past it."""

PLANE_CODEC = "nested"

LEAST_PAIRS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchingOptions:
    """What is measured.

    Attributes:
        slots: experts on the device; more than are left beside the streams' are asked for in turn, so that every first
            request of a pair misses.
        pairs: of a miss and a hit of the same expert with the same prompt, one request at a time.
        prompt_tokens, output_tokens: of each request.
        phase_s: seconds of each of the four phases of the interference, two with switches and two without.
        streams: requests of resident experts that are in flight all the time then.
        stream_tokens: of each answer then: its gaps are what is measured.
        switches_per_s: requests of others then, each of which needs a switch in the phases with them.
        seed: of prompts.
    """

    slots: int = 6
    pairs: int = 40
    prompt_tokens: int = 512
    output_tokens: int = 16
    phase_s: float = 8.0
    streams: int = 4
    stream_tokens: int = 128
    switches_per_s: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs < LEAST_PAIRS:
            raise UsageError(f"--pairs must be at least {LEAST_PAIRS}, got {self.pairs}")
        if self.slots < 2 or not 1 <= self.streams < self.slots:
            raise UsageError(
                f"--streams must be at least 1 and leave a slot for the others, got {self.streams} of {self.slots}"
            )
        if min(self.prompt_tokens, self.output_tokens, self.stream_tokens) < 2:
            raise UsageError("--prompt-tokens, --output-tokens and --stream-tokens must be at least 2")
        if not 0 < self.switches_per_s < float("inf") or not 0 < self.phase_s < float("inf"):
            raise UsageError(
                f"--switches-per-s and --phase must be positive, got {self.switches_per_s} and {self.phase_s}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One system, and where its misses come from; `codec` is `None` for whole models."""

    arm: str
    case: Case
    config: EngineConfig
    expert_bytes: int
    codec: str | None = None

    @property
    def name(self) -> str:
        """That no other setting has."""
        return f"{self.arm}_{self.case}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchingPlan:
    """What to measure, and with what."""

    options: SwitchingOptions
    prepared: Prepared
    experts: tuple[str, ...]
    settings: tuple[Setting, ...]
    commit: str | None = None


def plan_switching(
    options: SwitchingOptions,
    engine: EngineOptions,
    *,
    family: str,
    codec: str,
    budget: int,
    commit: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> SwitchingPlan:
    """The plan. Makes the family's files ready under MESWITCH_HOME, and writes nothing else.

    Raises:
        HarnessError, MeswitchError: something that is asked for is not there or cannot work: with the numbers.
    """
    if engine.device != "cuda":
        raise UsageError(
            f"switches from tier to tier need a GPU's memory beside the host's: give --device cuda, got {engine.device}"
        )
    longest = options.prompt_tokens + max(options.output_tokens, options.stream_tokens)
    if longest > engine.max_context_tokens:
        raise UsageError(f"prompts and answers need --max-context {longest}, got {engine.max_context_tokens}")
    # of those beyond the streams' own, one stays in the phases without switches; the rest, taken in turn, outnumber the
    # slots that are left, so that none is resident when it is asked for
    experts = sweep_experts(family, 2 * options.slots, device=engine.device)
    request = PrepareRequest(family=family, codec=codec, home=home_dir(), dtype=engine.dtype, experts=experts)
    prepared = prepare(request, report=report)
    planes = prepare(replace(request, codec=PLANE_CODEC), report=report)
    engine = replace(engine, slots=options.slots, pinned=experts[: options.streams])
    check_budget([ARMS["meswitch"]], prepared, engine, budget=budget)
    settings = tuple(_settings(prepared, planes, engine, budget, streams=options.streams))
    return SwitchingPlan(options=options, prepared=prepared, experts=experts, settings=settings, commit=commit)


def _settings(
    prepared: Prepared, planes: Prepared, engine: EngineOptions, budget: int, *, streams: int
) -> Iterator[Setting]:
    yield _ours("host", prepared, engine, budget)
    yield _ours("plane", planes, engine, budget)
    yield _swap("full-swap-host", "host", prepared, engine, budget)
    if prepared.synthetic is not None:
        # random experts have no files: there is no disk to come from
        return
    # the host holds what is pinned and two more, so that whoever comes next has to be read
    two_more = (streams + 2) * max(size.whole for size in prepared.sizes.values())
    yield _ours("disk", prepared, replace(engine, host_budget_bytes=two_more), budget)
    yield _swap("full-swap-disk", "disk", prepared, engine, budget)
    yield _swap("full-swap-disk-cold", "disk-cold", prepared, engine, budget)


def _ours(case: Case, prepared: Prepared, engine: EngineOptions, budget: int) -> Setting:
    return Setting(
        arm="meswitch",
        case=case,
        config=engine_config(ARMS["meswitch"], prepared, engine, budget=budget),
        expert_bytes=max(size.whole for size in prepared.sizes.values()),
        codec=prepared.codec,
    )


def _swap(name: str, case: Case, prepared: Prepared, engine: EngineOptions, budget: int) -> Setting:
    # one buffer has no place for what is pinned
    config = engine_config(ARMS[name], prepared, replace(engine, pinned=()), budget=budget)
    return Setting(arm=name, case=case, config=config, expert_bytes=prepared.model_bytes)


def plain_options(plan: SwitchingPlan) -> dict[str, object]:
    """The options as flat values."""
    return {**asdict(plan.options), "codec": plan.prepared.codec, "family": plan.prepared.family}
