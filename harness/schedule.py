"""The schedule of a run: every request with its absolute send time, fixed before the first is sent."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.errors import UsageError
from harness.token_prompts import TokenPrompts
from meswitch.core import AUTO, BASE, GenerationRequest, SamplingParams
from workloads.trace import Slo, Trace, TraceRequest

__all__ = ["RouterMode", "ScheduledRequest", "build_schedule", "warm_up_requests"]

RouterMode = Literal["tag", "llm"]
DEFAULT_OUTPUT_TOKENS = 64
LONGEST_REPLAY_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRequest:
    """One request, when to send it, and how to judge the answer. `due_ns` counts from the arm's zero."""

    index: int
    due_ns: int
    request: GenerationRequest
    task: str | None
    expert_wanted: str | None
    answer: str | None
    verifier: str | None
    slo: Slo


def build_schedule(
    trace: Trace,
    *,
    router: RouterMode,
    experts: Collection[str],
    rate_scale: float = 1.0,
    seed: int = 0,
    tokens: TokenPrompts | None = None,
) -> list[ScheduledRequest]:
    """The trace's requests in order of their time, `(t - t_first) / rate_scale` after zero.

    Args:
        router: `tag` sends each request to the expert the trace names; `llm` sends all of them to the router.
        experts: the names the family has.
        seed: of sampling, where a request samples and brings no seed: `seed + index`.
        tokens: the prompts of requests that record a length alone, which are answered with as many tokens as were
            recorded; `None` refuses them.

    Raises:
        UsageError: the trace names an expert the family lacks, or says too little to be replayed.
    """
    # a NaN is neither, and fails this too
    if not 0 < rate_scale < math.inf:
        raise UsageError(f"--rate-scale must be positive and finite, got {rate_scale}")
    if not trace.requests:
        raise UsageError("the trace holds no requests; there is nothing to measure")
    ordered = sorted(trace.requests, key=lambda item: item.t_ms)
    first_ms = ordered[0].t_ms
    replay_s = (ordered[-1].t_ms - first_ms) / rate_scale / 1e3
    if replay_s > LONGEST_REPLAY_S:
        raise UsageError(
            f"a replay must end within {LONGEST_REPLAY_S:.0f} s, but request {ordered[-1].id} would be sent "
            f"after {replay_s:.4g} s; correct its t or give --rate-scale"
        )
    return [
        _scheduled(
            item,
            index=index,
            due_ns=round((item.t_ms - first_ms) / rate_scale * 1e6),
            request=_generation_request(item, router=router, experts=experts, seed=seed, index=index, tokens=tokens),
        )
        for index, item in enumerate(ordered)
    ]


def warm_up_requests(schedule: Sequence[ScheduledRequest], count: int) -> list[GenerationRequest]:
    """The first `count` requests of a schedule under names of their own: the same for every arm."""
    return [
        GenerationRequest(
            request_id=f"warm-up-{item.index}",
            prompt=item.request.prompt,
            messages=item.request.messages,
            token_ids=item.request.token_ids,
            expert=item.request.expert,
            sampling=item.request.sampling,
        )
        for item in schedule[:count]
    ]


def _scheduled(item: TraceRequest, *, index: int, due_ns: int, request: GenerationRequest) -> ScheduledRequest:
    # an answer to drawn tokens means nothing: nobody judges it
    is_judged = item.token_ids is not None or request.token_ids is None
    return ScheduledRequest(
        index=index,
        due_ns=due_ns,
        request=request,
        task=item.task,
        expert_wanted=item.expert,
        answer=item.answer if is_judged else None,
        verifier=item.verifier if is_judged else None,
        slo=item.slo or Slo(),
    )


def _generation_request(
    item: TraceRequest,
    *,
    router: RouterMode,
    experts: Collection[str],
    seed: int,
    index: int,
    tokens: TokenPrompts | None,
) -> GenerationRequest:
    length = tokens.length(item) if tokens else None
    if length is None and item.prompt is None and item.messages is None and item.token_ids is None:
        raise UsageError(f"request {item.id}: a replay needs prompt, messages or token_ids, and the trace has none")
    if item.cancel_after_ms is not None:
        raise UsageError(f"request {item.id}: cancel_after is not supported; remove it from the trace")
    if item.expert is not None and item.expert != BASE and item.expert not in experts:
        known = ", ".join(sorted(experts))
        raise UsageError(f"request {item.id}: the family has no expert {item.expert!r}; it has {known}")
    if router == "tag" and item.expert is None:
        how = "use --router llm" if length is None else "give it one with harness trace import --assign-experts"
        raise UsageError(f"request {item.id}: names no expert, which --router tag needs; {how}")
    expert = AUTO if router == "llm" else item.expert or BASE
    sampling = _sampling(item, seed + index)
    if tokens is None or length is None:
        return GenerationRequest(
            request_id=item.id,
            prompt=item.prompt,
            messages=item.messages,
            token_ids=item.token_ids,
            expert=expert,
            sampling=sampling,
        )
    if router == "llm":
        raise UsageError(f"request {item.id}: its prompt is drawn and says nothing to a router; use --router tag")
    return GenerationRequest(
        request_id=item.id,
        token_ids=tokens.draw(index, length),
        expert=expert,
        # the recorded length is the work that was done: an end token of random weights must not shorten it
        sampling=replace(sampling, ignore_eos=True),
    )


def _sampling(item: TraceRequest, seed: int) -> SamplingParams:
    sampling = item.sampling
    temperature = sampling.temperature if sampling else 0.0
    own_seed = sampling.seed if sampling else None
    return SamplingParams(
        max_tokens=item.output_length or DEFAULT_OUTPUT_TOKENS,
        temperature=temperature,
        seed=seed if own_seed is None and temperature > 0 else own_seed,
        ignore_eos=sampling.ignore_eos if sampling else False,
    )
