"""What a prompt's times count, on a clock that is moved by hand."""

from harness.clock import FakeClock
from harness.prefill.timing import PromptTimes, time_prompt


def test_a_prompt_counts_from_its_first_launch_to_its_first_token_and_not_what_came_before() -> None:
    clock, order = FakeClock(), []

    def took(name: str, milliseconds: int) -> None:
        order.append(name)
        clock.advance_ns(milliseconds * 1_000_000)

    def first_token() -> int:
        took("first token", 13)
        return 42

    times = time_prompt(lambda: took("launch", 3), first_token, settle=lambda: took("settle", 100), now_ns=clock.now_ns)
    assert order == ["settle", "launch", "first token"]
    assert times == PromptTimes(prompt_ms=16.0, host_ms=3.0, token=42)
