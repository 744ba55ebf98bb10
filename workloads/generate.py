"""Mixed traces: arrivals x popularity x locality x tasks, each drawn from a stream of its own.

Streams are separate, so that changing one dimension leaves the others as they were: the same seed at another rate asks
the same questions in the same order.
"""

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from workloads.arrivals import ArrivalConfig, arrival_times
from workloads.errors import WorkloadError
from workloads.locality import with_locality
from workloads.popularity import PopularityConfig, draw_experts
from workloads.tasks import get_task
from workloads.tasks.base import Problem, Task, split_of
from workloads.trace import Sampling, Slo, TraceHeader, TraceRequest

__all__ = ["MIXED_TASKS", "MixConfig", "generate_mixed", "seeded_stream"]

MIXED_TASKS = ("arithmetic", "cipher", "dates", "json", "python", "reverse", "sorting", "velm")
"""The tasks of the bundled trace, the most popular first."""

MOST_DRAWS_PER_PROBLEM = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """A mixed trace. The first task is the most popular one under `zipf`.

    Attributes:
        tasks: names of tasks; the expert wanted for a task has its name.
        switch_probability: of a redraw before each request; see `workloads.locality`.
        output_length: the most tokens of an answer.
        slo: of every request.
        seed: of everything drawn; 0 is a seed.
    """

    name: str = "mixed"
    tasks: tuple[str, ...]
    requests: int = 300
    arrivals: ArrivalConfig = field(default_factory=lambda: ArrivalConfig(rate_per_s=4.5))
    popularity: PopularityConfig = field(default_factory=lambda: PopularityConfig(kind="zipf", exponent=0.8))
    switch_probability: float = 0.7
    output_length: int = 64
    slo: Slo = field(default_factory=lambda: Slo(ttft_ms=1000.0, tpot_ms=100.0))
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a mixed trace needs at least one task, got none")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be distinct, got {', '.join(self.tasks)}")
        for name in ("requests", "output_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.switch_probability <= 1:
            raise ValueError(f"switch_probability must be between 0 and 1, got {self.switch_probability}")


def generate_mixed(
    config: MixConfig, *, tasks: Mapping[str, Task] | None = None
) -> tuple[TraceHeader, list[TraceRequest]]:
    """Header and requests of the mixed trace, the same for the same config.

    Prompts are of the tasks' test split, and no two requests share one. `tasks` replaces the registered ones.

    Raises:
        UnknownTaskError: when a name is not that of a task.
        WorkloadError: when a task has too few prompts, or an answer that `output_length` cannot hold.
    """
    chosen = [get_task(name) if tasks is None else tasks[name] for name in config.tasks]
    draws = draw_experts(config.popularity, len(chosen), seeded_stream(config.seed, "popularity"))
    wanted = with_locality(draws, config.switch_probability, seeded_stream(config.seed, "locality"))
    times_s = arrival_times(config.arrivals, seeded_stream(config.seed, "arrivals"))
    problems = _problems(chosen, wanted, config.seed)
    planned = zip(range(config.requests), times_s, problems, strict=False)
    requests = [_request(config, index, at_s, *problem) for index, at_s, problem in planned]
    return _header(config), requests


def seeded_stream(seed: int, purpose: str) -> random.Random:
    """A generator of its own for each purpose; a string seeds it alike in every process and Python version."""
    return random.Random(f"{seed}/{purpose}")


def _problems(tasks: Sequence[Task], wanted: Iterator[int], seed: int) -> Iterator[tuple[Task, Problem]]:
    seen: set[str] = set()
    streams = [_test_problems(task, seeded_stream(seed, f"problems/{task.name}"), seen) for task in tasks]
    for index in wanted:
        yield tasks[index], next(streams[index])


def _test_problems(task: Task, rng: random.Random, seen: set[str]) -> Iterator[Problem]:
    """Test problems whose prompt is not in `seen`, which grows: two tasks must not share a prompt either."""
    while True:
        for _ in range(MOST_DRAWS_PER_PROBLEM):
            problem = task.sample(rng)
            if split_of(problem.prompt) == "test" and problem.prompt not in seen:
                break
        else:
            raise WorkloadError(
                f"task {task.name} gave no new test prompt in {MOST_DRAWS_PER_PROBLEM} draws; ask for fewer requests"
            )
        seen.add(problem.prompt)
        yield problem


def _request(config: MixConfig, index: int, at_s: float, task: Task, problem: Problem) -> TraceRequest:
    # a token is at least one byte, and the end token is one more
    needed = len(problem.answer.encode()) + 1
    if needed > config.output_length:
        raise WorkloadError(
            f"output_length must hold every answer: task {task.name} has one of up to {needed} tokens, "
            f"got {config.output_length}"
        )
    return TraceRequest(
        id=f"r{index:06d}",
        # microseconds are finer than any client can send, and keep the file readable
        t_ms=round(at_s * 1000, 3),
        expert=task.name,
        domain=task.name,
        task=task.name,
        prompt=problem.prompt,
        answer=problem.answer,
        verifier=task.verifier,
        output_length=config.output_length,
        sampling=Sampling(temperature=0.0),
        slo=config.slo,
    )


def _header(config: MixConfig) -> TraceHeader:
    plan = {
        "tasks": list(config.tasks),
        "requests": config.requests,
        "arrivals": str(config.arrivals),
        "rate_per_s": config.arrivals.rate_per_s,
        "popularity": str(config.popularity),
        "switch_probability": config.switch_probability,
        "output_length": config.output_length,
        "slo": {key: value for key, value in dataclasses.asdict(config.slo).items() if value is not None},
    }
    return TraceHeader(
        name=config.name,
        source="generated: synthetic tasks, synthetic arrivals",
        licence="Apache-2.0",
        seed=config.seed,
        assignment=f"the task decides the expert; popularity {config.popularity}, "
        f"switch probability {config.switch_probability:g}",
        generator=plan,
    )
