"""Misses and hits in pairs, one request at a time: what a switch alone adds to the first token.

And the same requests where nothing switches at all, to see that a hit does not pay for the switch before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from harness.records import RequestRecord
from harness.switching.client import SwitchClient
from harness.switching.plan import SwitchingOptions

__all__ = ["Pair", "measure_pairs", "measure_still"]

WARM_UP = 2
"""Requests before those that count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two requests for the same expert with the same prompt.

    Attributes:
        miss: its expert was elsewhere; hit: the miss had brought it.
        copy_ms: of the miss, on the device; `None` where nothing timed it, or where others copied meanwhile.
    """

    miss: RequestRecord
    hit: RequestRecord
    copy_ms: float | None


def measure_pairs(
    client: SwitchClient, experts: Sequence[str], options: SwitchingOptions, *, warm_up: int = WARM_UP
) -> list[Pair]:
    """The pairs, after a few that are not counted.

    Args:
        client: of the system.
        experts: one more than can be resident, at least; asked for in turn, each is gone when its turn comes.
    """
    pairs = []
    for number, expert in zip(range(options.pairs + warm_up), cycle(experts), strict=False):
        before = client.tiers()
        miss = _ask(client, expert, number, options, task="miss")
        hit = _ask(client, expert, number, options, task="hit")
        copy_ms = _copy_ms(before, client.tiers())
        pair = Pair(miss=miss, hit=hit, copy_ms=copy_ms)
        # which turn it was is what pairs the two, in the records too
        pairs.append(replace(pair, miss=replace(miss, repeat=number), hit=replace(hit, repeat=number)))
    return pairs[warm_up:]


def measure_still(client: SwitchClient, pinned: Sequence[str], options: SwitchingOptions) -> list[RequestRecord]:
    """Half as many requests as there are pairs, for experts that never leave, after a few that are not counted.

    Nothing else is asked for meanwhile: what these take is what a run without any switch takes.
    """
    # each of them comes once, wherever it was
    warm_up = max(WARM_UP, len(pinned))
    records = []
    for number, expert in zip(range(warm_up + (options.pairs + 1) // 2), cycle(pinned), strict=False):
        records.append(replace(_ask(client, expert, number, options, task="still"), repeat=number))
    return records[warm_up:]


def _ask(client: SwitchClient, expert: str, number: int, options: SwitchingOptions, *, task: str) -> RequestRecord:
    return client.answer(
        expert, prompt=number, tokens=options.prompt_tokens, output_tokens=options.output_tokens, task=task
    )


def _copy_ms(before: Mapping[str, int], after: Mapping[str, int]) -> float | None:
    copies = after.get("copies", 0) - before.get("copies", 0)
    copied_us = after.get("copy_us", 0) - before.get("copy_us", 0)
    return copied_us / 1e3 if copies == 1 and copied_us else None
