"""About how long a sweep takes: a sum of stated constants, to plan by, and not a measurement of anything."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.sweep.cells import Cell
from harness.sweep.plan import EngineGroup, PlannedCell, SweepPlan, refusal

__all__ = ["ASSUMPTIONS", "GroupEstimate", "estimate_groups"]

GIB = 1 << 30

# of Python, its modules and a CUDA context, once in a call on a GPU; of a whole engine on a CPU, which has its own
PROCESS_S = {"cpu": 4.0, "cuda": 17.0}
# of compiling from a warm cache and capturing: for deltas in slots, and for each whole model in a buffer
STEPS_S = {"delta": 3.0, "full": 1.0}
# of making and pinning host memory and drawing what lies there: once in a call for each size of image
PINNED_S_PER_GIB = 0.75
# bytes/s from pinned host memory, measured in copies of 1 GiB
HOST_TO_DEVICE_BYTES_PER_S = 55e9
# of a touch beside the copy
TOUCH_S = 0.05
# copies that a swap's turn takes, its prompt and its answer included: each of the first requests waits for those before
TURN_COPIES = 2.4
# of a cell beside its warm-up and its window: what is in flight ends, and its records are written
CELL_S = 0.2

ASSUMPTIONS: Mapping[str, float] = {
    "process_s_cuda": PROCESS_S["cuda"],
    "process_s_cpu": PROCESS_S["cpu"],
    "steps_s_delta": STEPS_S["delta"],
    "steps_s_whole_model": STEPS_S["full"],
    "pinned_s_per_gib": PINNED_S_PER_GIB,
    "host_to_device_bytes_per_s": HOST_TO_DEVICE_BYTES_PER_S,
    "touch_s": TOUCH_S,
    "turn_copies": TURN_COPIES,
    "cell_s": CELL_S,
}
"""From the starts of eight engines of one call on an H100's host with a warm Triton cache: the first took 23.4 s, of
which 4.9 s were steps; those of the others took 2.0 to 2.9 s, a whole model's 0.9 s; 13.5 GiB were pinned and drawn in
7.0 s and 10.4 s. Turns are of a swap whose first 16 requests had their first tokens after 10.1 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEstimate:
    """Seconds of one engine: its start, and its cells, as they are thought to settle, and if none of them does."""

    start_s: float
    cells_s: float
    cells_most_s: float

    @property
    def total_s(self) -> float:
        """Start and cells that settle as expected."""
        return self.start_s + self.cells_s

    @property
    def most_s(self) -> float:
        """Start and cells that do not settle."""
        return self.start_s + self.cells_most_s


def estimate_groups(
    plan: SweepPlan, groups: Iterable[tuple[EngineGroup, Sequence[PlannedCell]]]
) -> Iterator[GroupEstimate | None]:
    """The estimate of each engine and of those of its cells that have no result yet; `None` where none is left.

    Engines of a GPU share a process, one after the other, and the host images of their size: in the order given.
    """
    pinned: dict[int, int] = {}
    for group, cells in groups:
        if not cells:
            yield None
        elif refusal(plan, group) is not None:
            yield GroupEstimate(start_s=0.0, cells_s=0.0, cells_most_s=0.0)
        else:
            yield _estimate(plan, group, cells, pinned)


def _estimate(
    plan: SweepPlan, group: EngineGroup, cells: Sequence[PlannedCell], pinned: dict[int, int]
) -> GroupEstimate:
    start_s = PROCESS_S["cpu"] if group.config.device.kind == "cpu" else _start_s(plan, group, pinned)
    workload = plan.workload
    return GroupEstimate(
        start_s=start_s,
        cells_s=sum(workload.seconds + _settling_s(plan, group, planned.cell) + CELL_S for planned in cells),
        cells_most_s=len(cells) * (workload.seconds + workload.warm_up_limit_s + CELL_S),
    )


def _settling_s(plan: SweepPlan, group: EngineGroup, cell: Cell) -> float:
    """Until a cell's first requests have their first tokens: at once, but where whole models take turns."""
    workload, turns_s = plan.workload, 0.0
    swaps = group.config.weights == "full" and not group.arm.every and group.config.device.kind == "cuda"
    if swaps and cell.in_flight is not None and cell.experts > 1:
        turns_s = min(cell.in_flight, cell.experts) * TURN_COPIES * _image_bytes(plan, group)
        turns_s /= HOST_TO_DEVICE_BYTES_PER_S
    return min(max(workload.warm_up_s, turns_s), workload.warm_up_limit_s)


def _start_s(plan: SweepPlan, group: EngineGroup, pinned: dict[int, int]) -> float:
    image, held = _image_bytes(plan, group), _held(plan, group)
    start_s = 0.0 if pinned else PROCESS_S["cuda"]
    images = _host_images(group)
    start_s += PINNED_S_PER_GIB * max(images - pinned.get(image, 0), 0) * image / GIB
    pinned[image] = max(images, pinned.get(image, 0))
    steps_s = STEPS_S[group.config.weights] * (held if group.config.weights == "full" else 1)
    return start_s + steps_s + held * (image / HOST_TO_DEVICE_BYTES_PER_S + TOUCH_S)


def _held(plan: SweepPlan, group: EngineGroup) -> int:
    """Experts, or whole models, that are on the device at once."""
    room = group.config.memory_budget_bytes - plan.kv_bytes
    if group.config.weights == "delta":
        room -= plan.prepared.model_bytes
    most = group.config.device.model_buffers or group.config.device.slots or group.experts
    return max(min(most, group.experts, room // _image_bytes(plan, group)), 1)


def _image_bytes(plan: SweepPlan, group: EngineGroup) -> int:
    if group.config.weights == "full":
        return plan.prepared.model_bytes
    return max(size.whole for size in plan.prepared.sizes.values())


def _host_images(group: EngineGroup) -> int:
    synthetic = group.config.synthetic
    shared = synthetic.host_images if synthetic is not None else None
    return group.experts if shared is None else min(shared, group.experts)
