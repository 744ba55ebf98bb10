"""The cells of a sweep: every combination that makes sense, in an order in which neighbours can share an engine."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.arms import Arm, parse_arms
from harness.errors import UsageError
from harness.sizes import parse_bytes
from meswitch.policies import new_policy
from workloads.popularity import parse_popularity

__all__ = ["Cell", "Grid", "parse_grid"]

UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "B": 1}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of a sweep.

    Attributes:
        arm: with its modifiers.
        experts: that requests ask for.
        popularity: as `workloads.popularity` writes it.
        in_flight: of a closed loop: so many requests at any moment; `None` for an open loop.
        rate_per_s: of an open loop, mean requests a second, Poisson; `None` for a closed one.
        budget_bytes: of memory.
    """

    arm: str
    experts: int
    policy: str
    popularity: str
    in_flight: int | None
    rate_per_s: float | None
    budget_bytes: int

    @property
    def key(self) -> str:
        """A name that no other cell of a sweep has, and that a file can have."""
        load = f"n{self.in_flight}" if self.in_flight is not None else f"r{self.rate_per_s:g}"
        words = (self.arm, f"e{self.experts:03d}", self.policy, self.popularity, load, _size(self.budget_bytes))
        return "_".join(words).replace(":", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The lists that a sweep combines."""

    arms: tuple[Arm, ...]
    experts: tuple[int, ...]
    policies: tuple[str, ...] = ("lru",)
    popularities: tuple[str, ...] = ("uniform",)
    in_flight: tuple[int, ...] = (16,)
    rates: tuple[float, ...] = ()
    budgets: tuple[int, ...]

    def cells(self) -> Iterator[Cell]:
        """All cells. An arm that serves one expert only has cells of one, whatever the list says."""
        loads = [(n, None) for n in self.in_flight] + [(None, rate) for rate in self.rates]
        for arm, budget, policy in itertools.product(self.arms, self.budgets, self.policies):
            for experts in (1,) if arm.lone else self.experts:
                for popularity, (in_flight, rate) in itertools.product(self.popularities, loads):
                    yield Cell(
                        arm=arm.name,
                        experts=experts,
                        policy=policy,
                        popularity=popularity,
                        in_flight=in_flight,
                        rate_per_s=rate,
                        budget_bytes=budget,
                    )

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


def parse_grid(
    *, arms: str, experts: str, policies: str, popularities: str, in_flight: str, rates: str, budgets: str
) -> Grid:
    """The grid of comma-separated lists.

    Raises:
        UsageError, UnknownArmError, UnknownPolicyError: a list is empty, names something twice, or what is not there.
    """
    grid = Grid(
        arms=parse_arms(arms),
        experts=tuple(sorted(_parse("--experts", experts, _at_least_one))),
        policies=_parse("--policies", policies, _policy),
        popularities=_parse("--popularity", popularities, _popularity),
        in_flight=_parse("--in-flight", in_flight, _at_least_one) if in_flight else (),
        rates=_parse("--rate", rates, _rate) if rates else (),
        budgets=_parse("--memory-budget", budgets, parse_bytes),
    )
    if not grid.in_flight and not grid.rates:
        raise UsageError("a sweep needs a load: --in-flight or --rate, got neither")
    return grid


def _size(nbytes: int) -> str:
    """The bytes in the largest unit that leaves a whole number: exact, unlike what people read."""
    unit = next(unit for unit, size in UNITS.items() if nbytes % size == 0)
    return f"{nbytes // UNITS[unit]}{unit}"


def _parse(option: str, text: str, convert: Callable[[str], T]) -> tuple[T, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        values = [convert(word) for word in words]
    except ValueError as error:
        raise UsageError(f"{option} must be a list with commas, got {text!r}: {error}") from None
    if not values or _has_repeats(values):
        raise UsageError(f"{option} must name at least one value, and each once, got {text!r}")
    return tuple(values)


def _has_repeats(values: Sequence[object]) -> bool:
    return len(set(values)) != len(values)


def _at_least_one(word: str) -> int:
    value = int(word)
    if value < 1:
        raise ValueError(f"must be at least 1, got {value}")
    return value


def _rate(word: str) -> float:
    value = float(word)
    # a NaN is neither, and fails this too
    if not 0 < value < float("inf"):
        raise ValueError(f"must be positive and finite, got {word}")
    return value


def _policy(word: str) -> str:
    new_policy(word)
    return word


def _popularity(word: str) -> str:
    return str(parse_popularity(word))
