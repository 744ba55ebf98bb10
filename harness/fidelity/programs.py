"""pass@1: programs that a model writes, run against the tests of their problems.

Each problem is answered once, greedily, so that the share of programs that pass all tests is pass@1 itself and not an
estimate of it. What answers is a base, an expert, and the expert under each arm; the data's own solutions are judged
too, and all of them should pass.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from harness.errors import UsageError
from harness.fidelity.describe import describe, size_of, stacks_of
from harness.fidelity.evaluate import Family
from harness.fidelity.moments import collect_moments
from harness.fidelity.program_records import ProgramRecord, append_programs, keep_programs
from harness.fidelity.subject import Subject, take_weights
from meswitch.codecs import parse_codec
from meswitch.families.pocket.generation import greedy_tokens
from meswitch.families.smollm2.rows import encode
from meswitch.families.smollm2.tasks import Pair
from workloads.sandbox import SandboxLimits, Verdict, judge

__all__ = ["ENDS", "PROGRAM_ARMS", "ProgramFamily", "ProgramOptions", "code_of", "evaluate_programs", "prompt_ids"]

ENDS = ("reference", "base", "expert")
"""Arms that are no codecs: the data's own solutions, and the two models."""

PROGRAM_ARMS = (
    "salient:bits=2,channels=8,step=mse",
    "salient:bits=2,channels=8,step=unbiased",
    "rtn:bits=2,step=unbiased",
    "bitdelta",
    "sparse-sign:group=4",
    "sparse-sign:group=8",
)
"""The paper's codes, what an unbiased step and salient channels are worth, signs, and positions."""


class ProgramFamily(Family, Protocol):
    """Where subjects come from, and the tokenizer that the problems of their tasks are written with."""

    tokenizer: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOptions:
    """What is answered, and how programs are run.

    Attributes:
        output: the folder of `programs/`.
        experts: (task, seed), the most needed first.
        specs: codecs.
        rows: prompts that are answered at once.
        max_tokens: of an answer.
        processes: programs that run at once.
        deadline_s: on the monotonic clock; no arm is begun after it.
    """

    output: Path
    experts: tuple[tuple[str, int], ...]
    specs: tuple[str, ...] = PROGRAM_ARMS
    rows: int = 16
    max_tokens: int = 288
    processes: int = 1
    deadline_s: float = float("inf")
    limits: SandboxLimits = field(default_factory=SandboxLimits)


def evaluate_programs(
    family: ProgramFamily,
    problems: Mapping[str, Sequence[Pair]],
    options: ProgramOptions,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Whether every arm of every expert is judged now; records are added to those that are there.

    Args:
        problems: of each task, all with tests.

    Raises:
        UsageError: a problem has no tests.
        SandboxError: programs cannot be run with limits here.
    """
    for task, pairs in problems.items():
        if not pairs or not all(pair.tests for pair in pairs):
            raise UsageError(f"programs are judged by tests, which task {task} has not for all of its problems")
    for task, seed in options.experts:
        if clock() > options.deadline_s:
            return False
        subject = family.subject(task, seed)
        path = options.output / "programs" / f"{task}-{seed}.jsonl"
        known = {record.arm for record in keep_programs(path, subject.expert_hash, len(problems[task]))}
        left = [arm for arm in (*ENDS, *options.specs) if arm not in known]
        writer = Writer(family.tokenizer, subject, problems[task], options)
        for arm in left:
            if clock() > options.deadline_s:
                return False
            report(f"{task}, seed {seed}: {arm}")
            append_programs(path, writer.record(arm))
    return True


class Writer:
    """Lets one subject answer; its model holds whatever answered last."""

    def __init__(self, tokenizer: Any, subject: Subject, problems: Sequence[Pair], options: ProgramOptions) -> None:
        self.tokenizer, self.subject, self.problems, self.options = tokenizer, subject, problems, options
        self.prompts = prompt_ids(tokenizer, problems)
        self._stacks: Any = None

    def record(self, arm: str) -> ProgramRecord:
        """What an arm answered and what came of it."""
        subject, options = self.subject, self.options
        answers = [pair.answer for pair in self.problems] if arm == "reference" else list(self.answers(arm))
        verdicts = judged([code_of(text) for text in answers], self.problems, options)
        bits, size = (None, None) if arm in ENDS else size_of(parse_codec(arm), subject)
        return ProgramRecord(
            family=subject.family,
            task=subject.task,
            seed=subject.seed,
            expert_hash=subject.expert_hash,
            arm=arm,
            bits_per_weight=bits,
            expert_bytes=size,
            seconds=options.limits.seconds,
            memory_bytes=options.limits.memory_bytes,
            isolated=all(verdict.isolated for verdict in verdicts),
            outcomes=tuple(verdict.outcome for verdict in verdicts),
            details=tuple(verdict.detail for verdict in verdicts),
            # the data's own solutions are not ours to keep
            answers=() if arm == "reference" else tuple(answers),
        )

    def answers(self, arm: str) -> Iterator[str]:
        """The greedy answer to each problem."""
        model = self.subject.model
        self.take(arm)
        end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        for start in range(0, len(self.prompts), self.options.rows):
            rows = self.prompts[start : start + self.options.rows]
            for ids in greedy_tokens(model, rows, max_tokens=self.options.max_tokens, end=end):
                yield self.tokenizer.decode(ids)

    @torch.no_grad()
    def take(self, arm: str) -> None:
        """Put the arm's weights in the model."""
        subject = self.subject
        take_weights(subject.model, subject.base if arm == "base" else subject.expert)
        if arm in ENDS:
            return
        if self._stacks is None:
            self._stacks = stacks_of(subject, collect_moments(subject))
        described = describe(parse_codec(arm), self._stacks)
        take_weights(subject.model, {name: subject.base[name] + delta for name, delta in described.items()})


def prompt_ids(tokenizer: Any, problems: Sequence[Pair]) -> list[tuple[int, ...]]:
    """The tokens before each answer."""
    return [row.ids[: len(row.ids) - row.answer] for row in encode(tokenizer, problems)]


def code_of(answer: str) -> str:
    """The first fenced block of an answer; all of it if there is none. A base answers in Markdown."""
    found = re.search(r"```(?:[Pp]ython)?[ \t]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return found.group(1) if found else answer


def judged(programs: Sequence[str], problems: Sequence[Pair], options: ProgramOptions) -> list[Verdict]:
    """The verdict on each program, several at a time."""
    with ThreadPoolExecutor(options.processes) as pool:
        tests = (pair.tests for pair in problems)
        return list(pool.map(lambda program, own: judge(program, own, options.limits), programs, tests))
