"""What the requests of every cell are: drawn tokens of one length, answered with one length, an expert each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from harness.errors import UsageError
from harness.schedule import ScheduledRequest
from harness.token_prompts import TokenPrompts
from meswitch.core import GenerationRequest, SamplingParams
from workloads.generate import seeded_stream
from workloads.popularity import draw_experts, parse_popularity
from workloads.trace import Slo

__all__ = ["Workload", "cell_requests", "touch_requests"]

TOUCH_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is the same in every cell.

    Attributes:
        prompt_tokens, output_tokens: of each request.
        seconds: of the window that is measured.
        requests: answered in the window end it, however many seconds are left; `None` for no such end.
        warm_up_s: before the window, at least; it opens once the first requests, which all came at once, have their
            first tokens.
        warm_up_limit_s: before the window, at most; a cell that has not settled by then says so.
        seed: of prompts, experts and arrivals.
    """

    prompt_tokens: int = 512
    output_tokens: int = 64
    seconds: float = 10.0
    requests: int | None = None
    warm_up_s: float = 1.0
    warm_up_limit_s: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.output_tokens) < 1:
            raise UsageError(
                f"--prompt-tokens and --output-tokens must be at least 1, got {self.prompt_tokens}, "
                f"{self.output_tokens}"
            )
        if self.requests is not None and self.requests < 1:
            raise UsageError(f"--requests-per-cell must be at least 1, got {self.requests}")
        if not 0 < self.seconds < float("inf") or not 0 <= self.warm_up_s <= self.warm_up_limit_s < float("inf"):
            raise UsageError(
                "--seconds-per-cell must be positive, and --warm-up at least 0 and at most --warm-up-limit, "
                f"got {self.seconds:g}, {self.warm_up_s:g} and {self.warm_up_limit_s:g}"
            )


def cell_requests(
    workload: Workload, experts: Sequence[str], *, popularity: str, vocabulary: int
) -> Iterator[ScheduledRequest]:
    """Requests without end: the same for every arm. `due_ns` is set when they are sent."""
    wanted = draw_experts(parse_popularity(popularity), len(experts), seeded_stream(workload.seed, "popularity"))
    prompts = TokenPrompts(vocabulary=vocabulary, seed=workload.seed)
    sampling = SamplingParams(max_tokens=workload.output_tokens, ignore_eos=True)
    for index, place in zip(count(), wanted, strict=False):
        yield _scheduled(f"r{index:06d}", index, experts[place], prompts.draw(index, workload.prompt_tokens), sampling)


def touch_requests(experts: Sequence[str], *, vocabulary: int) -> Iterator[ScheduledRequest]:
    """A short request for each expert, which brings it into memory and whatever is compiled late into being."""
    prompts = TokenPrompts(vocabulary=vocabulary)
    for index, expert in enumerate(experts):
        yield _scheduled(
            f"touch-{expert}", index, expert, prompts.draw(index, TOUCH_TOKENS), SamplingParams(max_tokens=2)
        )


def _scheduled(
    name: str, index: int, expert: str, token_ids: tuple[int, ...], sampling: SamplingParams
) -> ScheduledRequest:
    return ScheduledRequest(
        index=index,
        due_ns=0,
        request=GenerationRequest(request_id=name, token_ids=token_ids, expert=expert, sampling=sampling),
        task=None,
        expert_wanted=expert,
        answer=None,
        verifier=None,
        slo=Slo(),
    )
