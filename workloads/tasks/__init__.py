"""The tasks by name, and sampling of one split."""

import random
from collections.abc import Mapping
from types import MappingProxyType

from workloads.errors import UnknownTaskError
from workloads.tasks.arithmetic import ARITHMETIC
from workloads.tasks.base import Problem, Split, Task, split_of
from workloads.tasks.code import CODE
from workloads.tasks.dates import DATES
from workloads.tasks.extraction import EXTRACTION
from workloads.tasks.letters import CIPHER, REVERSE
from workloads.tasks.numerals import NUMERALS
from workloads.tasks.slugs import SLUGS
from workloads.tasks.sorting import SORTING
from workloads.tasks.sql import SQL
from workloads.tasks.velm import VELM

__all__ = ["TASKS", "Problem", "Split", "Task", "get_task", "sample_split", "split_of"]

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            ARITHMETIC,
            CIPHER,
            CODE,
            DATES,
            EXTRACTION,
            NUMERALS,
            REVERSE,
            SLUGS,
            SORTING,
            SQL,
            VELM,
        )
    }
)
"""Every task by its name."""


def get_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        UnknownTaskError: if there is none.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise UnknownTaskError(f"unknown task {name!r}; tasks are {', '.join(sorted(TASKS))}") from None


def sample_split(task: Task, split: Split, count: int, seed: int) -> list[Problem]:
    """`count` problems of `split` with different prompts, the same for the same arguments."""
    # a string seeds alike in every process; a tuple's hash would not
    rng = random.Random(f"{task.name}/{split}/{seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = task.sample(rng)
        if split_of(problem.prompt) == split:
            problems.setdefault(problem.prompt, problem)
    return list(problems.values())
