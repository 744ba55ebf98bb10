"""What the tables of rows that were measured on a GPU have in common: how rows are told apart, resumed and recorded."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from harness.cuda_timing import BlockTimer
from harness.flat_table import Configuration
from harness.results import to_json_object, to_json_value
from harness.shapes import whole_spec
from harness.telemetry import GpuMonitor

__all__ = ["GpuInputs", "gpu_configuration", "incomplete_groups", "take_turns"]

Case = TypeVar("Case", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInputs:
    """What every table of a GPU's rows is measured with.

    Attributes:
        family: its name, as rows show it.
        codec: of the linears, with all options.
        time_block: times what is launched a number of times.
        gpu: whose clocks go into the raw records.
        provenance: goes into each of them, too.
    """

    family: str
    codec: str
    time_block: BlockTimer
    gpu: GpuMonitor
    provenance: Mapping[str, object]

    def raw_header(self, options: object, cases: Sequence[object], *, before: object) -> dict[str, object]:
        """How a raw record begins: where, with what, and what the GPU's clocks were `before` and are now.

        Args:
            options: of the measurement; its `cases` are those of the record alone.
        """
        return {
            "provenance": self.provenance,
            "options": {**to_json_object(options), "cases": to_json_value(list(cases))},
            "gpu_state_before": to_json_value(before),
            "gpu_state_after": to_json_value(self.gpu.state()),
        }


def gpu_configuration(
    options: Mapping[str, Any], names: Sequence[str], *, has_experts: bool, gpu: str | None
) -> Configuration:
    """What decides a row beside its key.

    Args:
        options: of the measurement, as plain values, with `synthetic` among them.
        names: of those that count.
        has_experts: whether the row's case has any; the base alone reads no expert's tables.
        gpu: the card; `None` where there is none, and rows of any card count.
    """
    facts: dict[str, str | int | None] = {name: options[name] for name in names}
    facts["seed"] = options["synthetic"]["seed"]
    if has_experts:
        facts |= {name: whole_spec(options["synthetic"][name]) for name in ("embedding", "head")}
    if gpu is not None:
        facts["GPU"] = gpu
    return facts


def incomplete_groups(
    cases: Iterable[Case], *, group_of: Callable[[Case], Any], has: Callable[[Case], bool]
) -> list[tuple[Case, ...]]:
    """The cases in groups of the same `group_of`, the largest first, without the groups of which each row is there.

    A group that lacks one row is measured anew: its cases are compared with one another.
    """
    ordered = sorted(cases, key=group_of, reverse=True)
    groups = [tuple(group) for _, group in groupby(ordered, key=group_of)]
    # every case is looked at: one measured in another way is refused before anything is measured
    return [group for group in groups if not all([has(case) for case in group])]


def take_turns(measures: Sequence[Callable[[], None]], repeats: int) -> None:
    """Call each of `measures` in each of so many repeats, forward and backward: a clock that drifts touches all."""
    for repeat in range(repeats):
        for measure in measures if repeat % 2 == 0 else tuple(reversed(measures)):
            measure()
