"""The wall time of one prompt: what a request waits for its first token when nothing else runs."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["PromptTimes", "time_prompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTimes:
    """One prompt.

    Attributes:
        prompt_ms: from its first launch until its first token was read.
        host_ms: of those, until everything but the choice of that token was launched.
        token: the first one; -1 if the logits were no numbers.
    """

    prompt_ms: float
    host_ms: float
    token: int


def time_prompt(
    launch: Callable[[], None],
    first_token: Callable[[], int],
    *,
    settle: Callable[[], None],
    now_ns: Callable[[], int],
) -> PromptTimes:
    """The wall time of one prompt.

    Args:
        launch: gives the device all of it but the choice of the first token.
        first_token: chooses that, and waits for it.
        settle: waits until the device has nothing to do.
        now_ns: the clock, in nanoseconds.
    """
    settle()
    began = now_ns()
    launch()
    launched = now_ns()
    token = first_token()
    ended = now_ns()
    return PromptTimes(prompt_ms=(ended - began) / 1e6, host_ms=(launched - began) / 1e6, token=token)
