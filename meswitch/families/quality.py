"""How good a family is: every expert on every task, and its router, item by item."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meswitch.families.checkpoints import Checkpoints
from meswitch.families.family import Family
from meswitch.router.prompt import RouterPrompt, router_prompt
from workloads.tasks import Problem, get_task, sample_split
from workloads.tasks.out_of_scope import sample_out_of_scope
from workloads.verifiers import verify

__all__ = ["AnswerRecord", "Interval", "RouteRecord", "answer_records", "route_records", "wilson"]

BATCHES = {"cpu": 250, "cuda": 6000}
"""Prompts answered together, by device."""

EVALUATION_SEED = 1

ROUTER_OPTIONS = (2, 4, 6, 8)

KNOWN_SHARE, SWEEP_SHARE = 2, 5
"""Of each trained domain's test problems, one in so many is asked: there are as many domains as make up for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A share with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """One answer of one model to one test problem."""

    model: str
    task: str
    index: int
    output: str
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRecord:
    """One decision of the router. `None` stands for "none of these".

    Attributes:
        scenario: `known` lists the trained domains, `added:<expert>` one more that came after training, `all` all;
            `options:<k>` the right one and k - 1 others, `unlisted` the trained ones without the right one;
            `out-of-scope` asks what no expert is for, with the trained domains listed, `out-of-scope:all` with all.
        domain: the query's own domain, or `out-of-scope`.
        index: of the query among the domain's test problems.
        wanted: the right expert among the options.
        chosen: the router's choice.
        confidence: the probability of the chosen letter among the letters.
        options: how many domains were listed.
    """

    scenario: str
    domain: str
    index: int
    wanted: str | None
    chosen: str | None
    confidence: float
    options: int


def wilson(successes: int, n: int) -> Interval:
    """The share `successes / n` with its 95 % Wilson score interval.

    Raises:
        ValueError: if `n` is not positive.
    """
    if n < 1:
        raise ValueError(f"n must be positive, got {n}")
    z, share = 1.959964, successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)


def load_model(directory: Path, device: str) -> Any:
    """The checkpoint in float32 on `device`."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(device).eval()


def test_problems(family: Family, count: int) -> dict[str, list[Problem]]:
    """`count` test problems for each task of the family, always the same."""
    tasks = sorted({expert.task for expert in family.experts.values()})
    return {task: sample_split(get_task(task), "test", count, EVALUATION_SEED) for task in tasks}


def answer_records(
    family: Family, checkpoints: Checkpoints, count: int, device: str, progress: Callable[[str], None]
) -> Iterator[AnswerRecord]:
    """The answers of the base and of every expert to `count` test problems of every task, greedy, float32."""
    from meswitch.families.pocket.generation import greedy_answers

    problems = [
        (index, problem) for asked in test_problems(family, count).values() for index, problem in enumerate(asked)
    ]
    # prompts of like length together, so that little is computed for padding
    problems.sort(key=lambda item: len(item[1].prompt))
    for name, directory in {"base": checkpoints.base, **checkpoints.experts}.items():
        model = load_model(directory, device)
        records = []
        for first in range(0, len(problems), BATCHES[device]):
            chunk = problems[first : first + BATCHES[device]]
            outputs = greedy_answers(model, [problem.prompt for _, problem in chunk])
            records += [judged(name, index, problem, x) for (index, problem), x in zip(chunk, outputs, strict=True)]
            progress(name)
        yield from sorted(records, key=lambda record: (record.task, record.index))


def judged(model: str, index: int, problem: Problem, output: str) -> AnswerRecord:
    """The record of one answer, with its verdict."""
    correct = verify(get_task(problem.task).verifier, problem.answer, output)
    return AnswerRecord(model=model, task=problem.task, index=index, output=output, correct=correct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A routing question with what is known of it."""

    scenario: str
    domain: str
    index: int
    wanted: str | None
    prompt: RouterPrompt


def route_records(
    family: Family, checkpoints: Checkpoints, count: int, device: str, progress: Callable[[str], None]
) -> Iterator[RouteRecord]:
    """The router's decisions on `count` queries of each domain, in every scenario of `RouteRecord`.

    The options are the experts' own descriptions, in a random order for every query.
    """
    from meswitch.families.pocket.generation import next_token_logits

    model = load_model(checkpoints.router, device)
    questions = list(routing_questions(family, count))
    batch = min(BATCHES[device], 1000)
    for first in range(0, len(questions), batch):
        chunk = questions[first : first + batch]
        logits = next_token_logits(model, [question.prompt.text for question in chunk]).cpu()
        for question, row in zip(chunk, logits, strict=True):
            letters = list(question.prompt.experts)
            shares = row[[ord(letter) for letter in letters]].softmax(-1)
            best = int(shares.argmax())
            yield RouteRecord(
                scenario=question.scenario,
                domain=question.domain,
                index=question.index,
                wanted=question.wanted,
                chosen=question.prompt.experts[letters[best]],
                confidence=round(float(shares[best]), 4),
                options=len(letters) - 1,
            )
        progress(f"router, {first + len(chunk)} of {len(questions)}")


def routing_questions(family: Family, count: int) -> Iterator[Question]:
    """Every question that the router is measured on."""
    rng = random.Random(f"router-evaluation/{EVALUATION_SEED}")
    described = {name: expert.description for name, expert in family.experts.items()}
    known = [name for name, expert in family.experts.items() if expert.known_to_router]
    added = [name for name in described if name not in known]
    problems = test_problems(family, count)

    def ask(scenario: str, domain: str, index: int, query: str, listed: Sequence[str]) -> Question:
        order = rng.sample(listed, len(listed))
        prompt = router_prompt({name: described[name] for name in order}, query)
        wanted = domain if domain in listed else None
        return Question(scenario=scenario, domain=domain, index=index, wanted=wanted, prompt=prompt)

    for index, query in enumerate(sample_out_of_scope("test", count, EVALUATION_SEED)):
        yield ask("out-of-scope", "out-of-scope", index, query, known)
        yield ask("out-of-scope:all", "out-of-scope", index, query, [*known, *added])
    for name in described:
        others = [other for other in known if other != name]
        for index, problem in enumerate(problems[family.experts[name].task]):
            query = problem.prompt
            if name in added:
                yield ask(f"added:{name}", name, index, query, [*known, name])
            elif index < math.ceil(count / KNOWN_SHARE):
                yield ask("known", name, index, query, known)
            if index < math.ceil(count / KNOWN_SHARE):
                yield ask("all", name, index, query, [*known, *added])
            if name in known and others and index < math.ceil(count / SWEEP_SHARE):
                yield ask("unlisted", name, index, query, others)
                for options in ROUTER_OPTIONS:
                    if options <= len(known):
                        yield ask(f"options:{options}", name, index, query, [name, *rng.sample(others, options - 1)])
