"""Mixed traces combine their dimensions, each from a stream of its own, and ask no question twice."""

import dataclasses
import itertools
import math
import random
from collections import Counter
from pathlib import Path

import pytest

from workloads.arrivals import ArrivalConfig
from workloads.errors import UnknownTaskError, WorkloadError
from workloads.generate import MIXED_TASKS, MixConfig, generate_mixed, seeded_stream
from workloads.locality import expected_switch_rate
from workloads.popularity import PopularityConfig, expert_shares
from workloads.tasks.base import Problem, Task, split_of
from workloads.trace import Sampling, Slo, TraceRequest
from workloads.trace_io import read_trace, write_trace


class Doubling:
    """Twice a number; a small or a large space of prompts, which may be shared with other tasks."""

    verifier = "integer"

    def __init__(self, name: str, *, prefix: str | None = None, most: int = 10**9) -> None:
        self.name = name
        self.description = f"{name} of numbers"
        self.prefix = name if prefix is None else prefix
        self.most = most

    def sample(self, rng: random.Random) -> Problem:
        number = rng.randrange(self.most)
        return Problem(task=self.name, prompt=f"{self.prefix} {number}", answer=str(2 * number))


TASKS: dict[str, Task] = {name: Doubling(name) for name in ("alpha", "beta", "gamma", "delta")}
CONFIG = MixConfig(tasks=tuple(TASKS), requests=200)


def made(config: MixConfig = CONFIG, tasks: dict[str, Task] = TASKS) -> list[TraceRequest]:
    return generate_mixed(config, tasks=tasks)[1]


def test_a_request_carries_all_that_a_run_needs() -> None:
    first = made()[0]
    assert first.id == "r000000"
    assert first.expert == first.task == first.domain
    assert first.prompt is not None
    assert first.answer == str(2 * int(first.prompt.split()[1]))
    assert first.verifier == "integer"
    assert first.output_length == 64
    assert first.sampling == Sampling(temperature=0.0)
    assert first.slo == Slo(ttft_ms=1000.0, tpot_ms=100.0)


def test_prompts_are_of_the_test_split_and_unique() -> None:
    prompts = [r.prompt for r in made() if r.prompt is not None]
    assert len(prompts) == len(set(prompts)) == 200
    assert {split_of(prompt) for prompt in prompts} == {"test"}


def test_no_two_tasks_share_a_prompt() -> None:
    tasks: dict[str, Task] = {n: Doubling(n, prefix="double", most=3000) for n in ("one", "two")}
    prompts = [r.prompt for r in made(dataclasses.replace(CONFIG, tasks=("one", "two")), tasks)]
    assert len(set(prompts)) == 200


def test_a_space_of_prompts_that_is_too_small_is_an_error() -> None:
    with pytest.raises(WorkloadError, match="task tiny gave no new test prompt in 10000 draws"):
        made(dataclasses.replace(CONFIG, tasks=("tiny",)), {"tiny": Doubling("tiny", most=100)})


def test_an_answer_longer_than_the_output_is_an_error() -> None:
    with pytest.raises(WorkloadError, match=r"output_length must hold every answer: task .* got 3"):
        made(dataclasses.replace(CONFIG, output_length=3))


def test_an_unknown_task_is_an_error_with_the_names_there_are() -> None:
    with pytest.raises(UnknownTaskError, match="unknown task 'alchemy'"):
        generate_mixed(MixConfig(tasks=("alchemy",)))


def test_the_same_seed_gives_the_same_bytes_and_zero_is_a_seed(tmp_path: Path) -> None:
    hashes = []
    for index, seed in enumerate((0, 0, 1)):
        header, requests = generate_mixed(dataclasses.replace(CONFIG, seed=seed), tasks=TASKS)
        assert header.seed == seed
        path = tmp_path / f"{index}.jsonl"
        write_trace(path, header, requests)
        hashes.append(read_trace(path).sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_another_rate_asks_the_same_questions_in_the_same_order() -> None:
    faster = made(dataclasses.replace(CONFIG, arrivals=ArrivalConfig(rate_per_s=9.0)))
    assert [r.prompt for r in faster] == [r.prompt for r in made()]
    # a poisson process at twice the rate is the same one at half the times, up to microseconds of rounding
    assert [r.t_ms for r in faster] == pytest.approx([r.t_ms / 2 for r in made()], abs=0.001)


def test_another_switch_probability_keeps_the_times() -> None:
    sticky = made(dataclasses.replace(CONFIG, switch_probability=0.1))
    assert [r.t_ms for r in sticky] == [r.t_ms for r in made()]
    assert [r.expert for r in sticky] != [r.expert for r in made()]


def test_more_requests_continue_the_shorter_trace() -> None:
    assert made(dataclasses.replace(CONFIG, requests=250))[:200] == made()


def test_a_long_trace_has_the_rate_the_shares_and_the_switches_it_was_asked_for() -> None:
    n, p = 5000, 0.7
    config = dataclasses.replace(CONFIG, requests=n, switch_probability=p)
    requests = made(config)
    experts = [r.expert for r in requests]
    assert requests[-1].t_ms / 1000 == pytest.approx(n / 4.5, rel=4 / math.sqrt(n))
    rate = expected_switch_rate(config.popularity, 4, p)
    switches = sum(a != b for a, b in itertools.pairwise(experts)) / (n - 1)
    assert abs(switches - rate) < 4 * math.sqrt(rate * (1 - rate) / (n - 1))
    counts = Counter(experts)
    for name, share in zip(TASKS, expert_shares(config.popularity, 4), strict=True):
        assert abs(counts[name] / n - share) < 4 * math.sqrt(share * (1 - share) / n * (2 - p) / p)


def test_the_header_says_how_the_trace_was_made() -> None:
    header, _ = generate_mixed(CONFIG, tasks=TASKS)
    assert header.name == "mixed"
    assert header.seed == 0
    assert header.assignment == "the task decides the expert; popularity zipf:0.8, switch probability 0.7"
    assert header.generator == {
        "tasks": ["alpha", "beta", "gamma", "delta"],
        "requests": 200,
        "arrivals": "poisson",
        "rate_per_s": 4.5,
        "popularity": "zipf:0.8",
        "switch_probability": 0.7,
        "output_length": 64,
        "slo": {"ttft_ms": 1000.0, "tpot_ms": 100.0},
    }


def test_popularity_ranks_follow_the_order_of_the_tasks() -> None:
    identical = dataclasses.replace(CONFIG, popularity=PopularityConfig(kind="identical"))
    assert {r.expert for r in made(identical)} == {"alpha"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "at least one task"),
        ({"tasks": ("a", "a")}, "tasks must be distinct"),
        ({"requests": 0}, "requests must be at least 1, got 0"),
        ({"output_length": 0}, "output_length must be at least 1, got 0"),
        ({"switch_probability": 1.5}, "between 0 and 1, got 1.5"),
    ],
)
def test_a_config_that_makes_no_trace_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_the_bundled_recipe_runs_on_the_registered_tasks() -> None:
    _, requests = generate_mixed(MixConfig(tasks=MIXED_TASKS, requests=50))
    assert len(MIXED_TASKS) == 8
    assert {r.task for r in requests} <= set(MIXED_TASKS)


def test_no_two_of_a_thousand_seeds_or_purposes_share_a_stream() -> None:
    first_draws = {seeded_stream(seed, purpose).random() for seed in range(500) for purpose in ("one", "two")}
    assert len(first_draws) == 1000
