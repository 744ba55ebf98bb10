"""Whether two devices answer alike: the same greedy requests through both engines, token by token."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from harness.prepared import Prepared
from meswitch.config import EngineConfig
from meswitch.core import Failed, Finished, GenerationRequest, SamplingParams, TokensGenerated
from meswitch.errors import EngineError
from meswitch.service import EngineProcess
from workloads.tasks import get_task, sample_split

__all__ = ["ParityRow", "answer_all", "compare_answers", "parity_requests", "row_dict"]

POLL_S = 1.0

Answers = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRow:
    """One expert's answers on a device beside those of the CPU.

    Attributes:
        requests, tokens: of the CPU's answers.
        equal_requests: answers that agree to the last token.
        diverged_tokens: first tokens that differ, one for each request that does; what follows one is another text.
        compared_tokens: tokens up to and with the first that differs: `diverged_tokens` of so many.
    """

    family: str
    codec: str
    expert: str
    dtype: str
    requests: int
    equal_requests: int
    tokens: int
    compared_tokens: int
    diverged_tokens: int


def parity_requests(prepared: Prepared, *, count: int, seed: int, max_tokens: int) -> list[GenerationRequest]:
    """`count` test problems of each expert's task, expert by expert in turn, so that batches mix them."""
    drawn = {
        expert: sample_split(get_task(task), "test", count, seed) for expert, task in sorted(prepared.tasks.items())
    }
    return [
        GenerationRequest(
            request_id=f"{expert}/{number}",
            prompt=drawn[expert][number].prompt,
            expert=expert,
            sampling=SamplingParams(max_tokens=max_tokens),
        )
        for number in range(count)
        for expert in drawn
    ]


def answer_all(
    config: EngineConfig, requests: Sequence[GenerationRequest], *, progress: Callable[[int], None] = lambda _: None
) -> dict[str, tuple[int, ...]]:
    """The tokens of every answer by request id.

    Raises:
        EngineError: a request failed: an answer that is missing cannot be compared.
    """
    limits = replace(config.scheduler, max_queue=max(config.scheduler.max_queue, len(requests)))
    engine = EngineProcess(replace(config, scheduler=limits))
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    left = len(requests)
    try:
        for request in requests:
            engine.send(request)
        while left:
            for event in engine.poll(POLL_S):
                if isinstance(event, TokensGenerated):
                    tokens[event.request_id].extend(event.token_ids)
                elif isinstance(event, Failed):
                    raise EngineError(f"request {event.request_id} failed: {event.message}")
                elif isinstance(event, Finished):
                    left -= 1
                    progress(1)
    finally:
        engine.close()
    return {name: tuple(found) for name, found in tokens.items()}


def compare_answers(wanted: Answers, found: Answers, *, family: str, codec: str, dtype: str) -> list[ParityRow]:
    """A row for each expert, in order of name; request ids begin with the expert's name and a slash."""
    rows = []
    for expert in sorted({name.partition("/")[0] for name in wanted}):
        names = [name for name in wanted if name.partition("/")[0] == expert]
        shared = {name: _shared_prefix(wanted[name], found[name]) for name in names}
        equal = sum(wanted[name] == found[name] for name in names)
        rows.append(
            ParityRow(
                family=family,
                codec=codec,
                expert=expert,
                dtype=dtype,
                requests=len(names),
                equal_requests=equal,
                tokens=sum(len(wanted[name]) for name in names),
                compared_tokens=sum(shared.values()) + len(names) - equal,
                diverged_tokens=len(names) - equal,
            )
        )
    return rows


def row_dict(row: ParityRow) -> dict[str, object]:
    """The row as plain values."""
    return asdict(row)


def _shared_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
