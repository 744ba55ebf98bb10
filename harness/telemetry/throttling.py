"""What held a GPU's clocks back while something was measured."""

from collections.abc import Sequence

from harness.telemetry.sample import Sample

__all__ = ["SLOWING", "THROTTLED_SHARE", "throttled_by", "throttled_share"]

SLOWING = frozenset(
    {"software_power_cap", "hardware_slowdown", "software_thermal", "hardware_thermal", "hardware_power_brake"}
)
"""Reasons that make the same work take longer. Idleness, and clocks that a user set, are none of them."""

THROTTLED_SHARE = 0.05
"""A measurement with more throttled samples than this is not used."""


def throttled_by(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The reasons seen in any sample, sorted."""
    return tuple(sorted({reason for s in samples for reason in s.gpu_throttle or () if reason in SLOWING}))


def throttled_share(samples: Sequence[Sample]) -> float | None:
    """Share of the samples that say anything in which the clocks were held back; `None` if none says anything."""
    said = [s.gpu_throttle for s in samples if s.gpu_throttle is not None]
    return sum(bool(SLOWING.intersection(reasons)) for reasons in said) / len(said) if said else None
