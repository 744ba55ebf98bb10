"""Bytes of weights: what an arm holds, part by part, and what whole models would take."""

from harness.summary import ArmSummary
from reports.source import RunSource

__all__ = ["WORKING_PARTS", "serving_parts", "weight_parts", "whole_models_bytes"]

WORKING_PARTS = frozenset({"dense_cache"})
"""Parts that hold weights unpacked for use, which could be made again from the others."""


def whole_models_bytes(source: RunSource) -> int | None:
    """What as many whole models as there are experts would take beside the same router.

    `experts × bytes of one whole model + router`: by arithmetic, nobody loaded them. One whole model is as large as
    the family says, or as the base, whose shape every expert has; `None` if neither is known.
    """
    arm = source.arm(source.treatment)
    weights = (arm.weight_bytes if arm else None) or {}
    model = source.manifest.family.get("model_bytes") or weights.get("base")
    if not isinstance(model, int) or not source.expert_count:
        return None
    return source.expert_count * model + weights.get("router", 0)


def weight_parts(arm: ArmSummary | None) -> dict[str, int]:
    """Bytes by part of an arm's weights, in the order given, without the total."""
    if arm is None or arm.weight_bytes is None:
        return {}
    return {part: size for part, size in arm.weight_bytes.items() if part != "total" and size}


def serving_parts(source: RunSource) -> dict[str, int]:
    """Bytes by part with which the treatment serves *all* experts.

    What it held at the end of the run, but with the codes of every expert: a run that asked for few of them has loaded
    few, and must not look the smaller for it.
    """
    parts = weight_parts(source.arm(source.treatment))
    every = source.manifest.family.get("delta_bytes")
    if "codes" in parts and isinstance(every, int):
        parts["codes"] = max(parts["codes"], every)
    return parts
