"""What held a GPU's clocks back while something was measured.

A card that works as hard as it can meets the power that it is rated for, and its clocks give way a little: that is how
it serves under load, and slows whoever keeps it busy. So it is said, with the clocks, and does not spoil a measurement.
Heat, a power brake and failing supplies are disturbances: the same work takes longer than another day.
"""

from collections.abc import Sequence

from harness.telemetry.sample import Sample

__all__ = ["AT_POWER_LIMIT", "SLOWING", "THROTTLED_SHARE", "power_limited_share", "throttled_by", "throttled_share"]

SLOWING = frozenset({"hardware_slowdown", "software_thermal", "hardware_thermal", "hardware_power_brake"})
"""Disturbances that make the same work take longer. Idleness, and clocks that a user set, are none of them."""

AT_POWER_LIMIT = "software_power_cap"
"""The reason of a card that draws what it may."""

THROTTLED_SHARE = 0.05
"""A measurement with more throttled samples than this is not used."""


def throttled_by(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The reasons seen in any sample, sorted."""
    return tuple(sorted({reason for s in samples for reason in s.gpu_throttle or () if reason in SLOWING}))


def throttled_share(samples: Sequence[Sample]) -> float | None:
    """Share of the samples that say anything in which the clocks were held back; `None` if none says anything."""
    return _share(samples, SLOWING)


def power_limited_share(samples: Sequence[Sample]) -> float | None:
    """Share of those samples in which the card drew what it may; `None` if none says anything."""
    return _share(samples, frozenset({AT_POWER_LIMIT}))


def _share(samples: Sequence[Sample], reasons: frozenset[str]) -> float | None:
    said = [s.gpu_throttle for s in samples if s.gpu_throttle is not None]
    return sum(not reasons.isdisjoint(found) for found in said) / len(said) if said else None
