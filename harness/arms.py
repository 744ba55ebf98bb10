"""The systems that a run can compare. They share engine, router, scheduler, limits and memory budget."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import UnknownArmError, UsageError
from harness.prepared import Prepared

__all__ = ["ARMS", "MODIFIERS", "Arm", "check_arms", "parse_arms", "read_files"]

Order = Literal["first-come", "grouped"]
Source = Literal["host", "disk", "disk-cold"]

PAGE_CACHE = "warm: all files of the arm were read just before it started"
NO_PAGE_CACHE = "not used: models wait in pinned host memory"
BYPASSED = "bypassed: direct I/O"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One system under comparison.

    Attributes:
        weights: compressed deltas beside one base, or whole models.
        devices: on which it makes sense.
        source: of whole models: where a switch brings them from.
        buffers: whole models in the device's memory at once; `None` for as many as the budget holds.
        every: all experts stay in memory: there is room for each, or the arm does not fit.
        lone: it serves one expert only.
        order: in which missing experts are brought.
    """

    name: str
    weights: Literal["delta", "full"]
    description: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    source: Source = "disk"
    buffers: int | None = None
    every: bool = False
    lone: bool = False
    order: Order = "first-come"

    def page_cache(self, device: str) -> str:
        """State of the operating system's file cache when the arm starts, in words."""
        if device == "cuda" and self.weights == "full" and self.source != "disk":
            return NO_PAGE_CACHE if self.source == "host" else BYPASSED
        return PAGE_CACHE

    def files(self, prepared: Prepared) -> Mapping[str, Path]:
        """Where this arm reads its experts from."""
        return prepared.deltas if self.weights == "delta" else prepared.checkpoints


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(
            name="meswitch",
            weights="delta",
            description="one base and each expert's compressed delta; a batch mixes experts row by row",
        ),
        Arm(
            name="full-swap-disk",
            weights="full",
            description="whole models, loaded from disk when asked for, least recently used evicted",
            buffers=1,
        ),
        Arm(
            name="full-swap-disk-cold",
            weights="full",
            description="whole models, read from disk past the page cache when asked for",
            devices=("cuda",),
            source="disk-cold",
            buffers=1,
        ),
        Arm(
            name="full-swap-host",
            weights="full",
            description="whole models, copied from pinned host memory when asked for: a swap's best case",
            devices=("cuda",),
            source="host",
            buffers=1,
        ),
        Arm(
            name="all-resident",
            weights="full",
            description="every expert as a whole model in memory, as long as that fits",
            source="host",
            every=True,
        ),
        Arm(
            name="merged",
            weights="full",
            description="one expert's whole model alone: the floor, without any switch",
            source="host",
            buffers=1,
            lone=True,
        ),
    )
}
"""By name, without modifiers."""

MODIFIERS: Mapping[str, str] = {
    "double": "two whole models in memory: the next is copied while one computes",
    "cached": "as many whole models in memory as the budget holds",
    "grouped": "missing experts are brought by the number of requests that wait for them",
}
"""What can follow an arm's name, each after a plus sign: `full-swap-host+double+grouped`."""


def parse_arms(text: str) -> tuple[Arm, ...]:
    """The arms of a comma-separated list, in the order in which they will run.

    Raises:
        UnknownArmError: there is no such arm, or no such modifier of it.
        UsageError: the list is empty or names one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"--arms must name each arm once, separated by commas, got {text!r}")
    return tuple(_parse_arm(name) for name in names)


def _parse_arm(text: str) -> Arm:
    name, *modifiers = text.split("+")
    if name not in ARMS:
        raise UnknownArmError(f"no arm is called {name!r}; there are {', '.join(ARMS)}")
    arm = replace(ARMS[name], name=text)
    for modifier in modifiers:
        if modifier not in MODIFIERS or modifiers.count(modifier) > 1 or {"double", "cached"} <= set(modifiers):
            known = ", ".join(MODIFIERS)
            raise UnknownArmError(f"after {name} and a plus there may be {known}, each once, got {text!r}")
        arm = _modified(arm, modifier)
    return arm


def _modified(arm: Arm, modifier: str) -> Arm:
    if modifier == "grouped":
        return replace(arm, order="grouped", description=f"{arm.description}; {MODIFIERS[modifier]}")
    if arm.weights == "delta" or arm.every or arm.lone:
        raise UnknownArmError(f"+{modifier} is for arms that swap whole models, got {arm.name!r}")
    return replace(
        arm,
        buffers=2 if modifier == "double" else None,
        # how many models a processor's memory holds at once is its budget's business
        devices=("cuda",),
        description=f"{arm.description}; {MODIFIERS[modifier]}",
    )


def check_arms(arms: Sequence[Arm], *, device: str, experts: Collection[str]) -> None:
    """Nothing, if every arm makes sense on the device and with so many experts.

    Raises:
        UsageError: one does not.
    """
    for arm in arms:
        if device not in arm.devices:
            raise UsageError(
                f"the arm {arm.name} keeps whole models outside the device's memory and copies them: "
                f"it needs --device {' or '.join(arm.devices)}, got {device}"
            )
        if arm.lone and len(experts) != 1:
            raise UsageError(
                f"the arm {arm.name} serves one expert only, got {len(experts)}; choose one with --experts NAME"
            )


def read_files(folders: Sequence[Path]) -> int:
    """Read every file below `folders` and forget it, so that the page cache holds them; the bytes read."""
    total = 0
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(1 << 20):
                    total += len(chunk)
    return total
