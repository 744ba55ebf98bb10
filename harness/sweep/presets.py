"""Sweeps by name: what a command line leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from harness.errors import UsageError

__all__ = ["PRESETS", "SweepChoices", "choose"]

ALL_EXPERTS = "1,2,4,8,16,24,32,48,64,96,128"
SWAPS = "full-swap-host,full-swap-host+double"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepChoices:
    """A sweep as a command line gives it: lists with commas, sizes as people write them; `None` for the preset's."""

    family: str | None = None
    device: str | None = None
    experts: str | None = None
    arms: str | None = None
    policies: str | None = None
    popularity: str | None = None
    in_flight: str | None = None
    rates: str | None = None
    budgets: str | None = None
    host_budget: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    warm_up_s: float | None = None
    warm_up_limit_s: float | None = None


FULL = SweepChoices(
    family="mistral-7b",
    device="cuda",
    experts=ALL_EXPERTS,
    arms=f"meswitch,{SWAPS},{SWAPS.replace(',', '+grouped,')}+grouped,all-resident,merged",
    policies="lru",
    popularity="uniform,zipf:1.0,distinct",
    in_flight="1,16",
    rates="",
    budgets="24GiB,40GiB,76GiB",
    host_budget="96GiB",
    prompt_tokens=512,
    output_tokens=64,
    seconds=20.0,
    warm_up_s=1.0,
    warm_up_limit_s=30.0,
)

HEADLINE = replace(
    FULL,
    arms="meswitch,full-swap-host,all-resident",
    popularity="uniform,zipf:1.0",
    in_flight="16",
    budgets="76GiB",
    host_budget="8GiB",
    seconds=3.0,
    warm_up_s=0.5,
    warm_up_limit_s=1.5,
)

QUICK = replace(
    FULL,
    experts="1,4,16,32,64,128",
    arms=f"meswitch,{SWAPS},all-resident",
    popularity="uniform,zipf:1.0",
    in_flight="16",
    budgets="76GiB",
    host_budget="8GiB",
    seconds=4.0,
    warm_up_s=0.5,
    warm_up_limit_s=5.0,
)

PRESETS: Mapping[str, SweepChoices] = MappingProxyType(
    {
        "full": FULL,
        "headline": HEADLINE,
        "quick": QUICK,
        "another": replace(
            QUICK,
            experts="16",
            arms=f"meswitch,{SWAPS},{SWAPS.replace(',', '+grouped,')}+grouped",
            popularity="distinct",
            in_flight="1,4,16",
            seconds=8.0,
            # sixteen whole models, one after the other
            warm_up_limit_s=15.0,
        ),
        "policies": replace(
            QUICK,
            experts="48,64,128",
            arms="meswitch",
            policies="lru,lfu,cost-aware",
            popularity="zipf:1.0",
            seconds=10.0,
        ),
        "pocket": SweepChoices(
            family="pocket",
            device="cpu",
            experts="1,2,4,8",
            arms="meswitch,full-swap-disk,all-resident",
            policies="lru",
            popularity="uniform,zipf:1.0",
            in_flight="4",
            rates="",
            budgets="32MiB",
            prompt_tokens=32,
            output_tokens=8,
            seconds=3.0,
            warm_up_s=0.5,
            warm_up_limit_s=5.0,
        ),
    }
)
"""`full`: every number of experts, budget and load, some seven hours. `headline`: its main figure, from 1 expert to
128, in some five minutes. `quick`: fewer numbers of experts for longer. `another`: 16 experts, every request another
one. `policies`: more experts than slots. `pocket`: the small trained family on a CPU, to see how a sweep works."""


def choose(preset: str, given: SweepChoices) -> SweepChoices:
    """The preset with whatever was given in its place.

    Raises:
        UsageError: there is no such preset.
    """
    if preset not in PRESETS:
        raise UsageError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    names = SweepChoices.__dataclass_fields__
    return replace(
        PRESETS[preset], **{name: getattr(given, name) for name in names if getattr(given, name) is not None}
    )
