"""About how long a sweep takes: a sum of stated constants, to plan by, and not a measurement of anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.sweep.plan import EngineGroup, SweepPlan

__all__ = ["ASSUMPTIONS", "GroupEstimate", "estimate_group"]

GIB = 1 << 30

# an H100's host, one process: seconds of starting Python and the CUDA context, compiling and capturing
START_S = {"cpu": 4.0, "cuda": 20.0}
# of filling and pinning host memory
PINNED_S_PER_GIB = 1.0
# bytes/s from pinned host memory, measured in copies of 1 GiB
HOST_TO_DEVICE_BYTES_PER_S = 55e9
# of a touch beside the copy
TOUCH_S = 0.05

ASSUMPTIONS: Mapping[str, float] = {
    "engine_start_s_cuda": START_S["cuda"],
    "engine_start_s_cpu": START_S["cpu"],
    "pinned_s_per_gib": PINNED_S_PER_GIB,
    "host_to_device_bytes_per_s": HOST_TO_DEVICE_BYTES_PER_S,
    "touch_s": TOUCH_S,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEstimate:
    """Seconds of one engine: its start, and its cells, which may need their whole warm-up or hardly any."""

    start_s: float
    cells_s: float
    cells_most_s: float

    @property
    def total_s(self) -> float:
        """Start and cells that settle at once."""
        return self.start_s + self.cells_s

    @property
    def most_s(self) -> float:
        """Start and cells that do not settle."""
        return self.start_s + self.cells_most_s


def estimate_group(plan: SweepPlan, group: EngineGroup, cells: Sequence[object]) -> GroupEstimate:
    """The estimate of an engine and those of its cells that have no result yet."""
    model, image = plan.prepared.model_bytes, _image_bytes(plan, group)
    device = group.config.device.kind
    start_s = START_S[device]
    held = min(group.experts, max(group.config.memory_budget_bytes - model, 0) // image + 1)
    if device == "cuda":
        start_s += PINNED_S_PER_GIB * _host_images(group) * image / GIB
        start_s += held * (image / HOST_TO_DEVICE_BYTES_PER_S + TOUCH_S)
    workload = plan.workload
    if group.arm.every and group.experts * model > group.config.memory_budget_bytes:
        # refused by arithmetic, before anything is allocated or compiled
        return GroupEstimate(start_s=START_S[device] / 2, cells_s=0.0, cells_most_s=0.0)
    return GroupEstimate(
        start_s=start_s,
        cells_s=len(cells) * (workload.seconds + workload.warm_up_s),
        cells_most_s=len(cells) * (workload.seconds + workload.warm_up_limit_s),
    )


def _image_bytes(plan: SweepPlan, group: EngineGroup) -> int:
    if group.config.weights == "full":
        return plan.prepared.model_bytes
    return max(size.whole for size in plan.prepared.sizes.values())


def _host_images(group: EngineGroup) -> int:
    synthetic = group.config.synthetic
    shared = synthetic.host_images if synthetic is not None else None
    return group.experts if shared is None else min(shared, group.experts)
