"""Bytes of weights: what an arm holds, part by part, and what whole models would take."""

from collections.abc import Mapping

from harness.summary import ArmSummary

__all__ = ["WORKING_PARTS", "Facts", "serving_parts", "weight_parts", "whole_models_bytes"]

WORKING_PARTS = frozenset({"dense_cache"})
"""Parts that hold weights unpacked for use, which could be made again from the others."""

Facts = Mapping[str, str | int | float | None]


def whole_models_bytes(arm: ArmSummary | None, family: Facts) -> int | None:
    """What as many whole models as there are experts would take beside the same router.

    `experts x bytes of one whole model + router`: by arithmetic, nobody loaded them. One whole model is as large as
    the family says, or as the base, whose shape every expert has; `None` if neither is known.
    """
    weights = (arm.weight_bytes if arm else None) or {}
    experts, model = family.get("experts"), family.get("model_bytes") or weights.get("base")
    if not isinstance(model, int) or not isinstance(experts, int) or not experts:
        return None
    return experts * model + weights.get("router", 0)


def weight_parts(arm: ArmSummary | None) -> dict[str, int]:
    """Bytes by part of an arm's weights, in the order given, without the total."""
    if arm is None or arm.weight_bytes is None:
        return {}
    return {part: size for part, size in arm.weight_bytes.items() if part != "total" and size}


def serving_parts(arm: ArmSummary | None, family: Facts) -> dict[str, int]:
    """Bytes by part with which the arm serves *all* experts.

    What it held at the end of the run, but with the codes of every expert: a run that asked for few of them has loaded
    few, and must not look the smaller for it.
    """
    parts = weight_parts(arm)
    every = family.get("delta_bytes")
    if "codes" in parts and isinstance(every, int):
        parts["codes"] = max(parts["codes"], every)
    return parts
