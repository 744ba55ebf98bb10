"""Where replayed sequences come from."""

from collections import Counter
from itertools import pairwise
from math import sqrt
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.policies_sequence import parse_synthetic, synthetic_sequence, trace_sequence
from workloads.trace import TraceHeader, TraceRequest
from workloads.trace_io import read_trace, write_trace


def test_a_traces_requests_give_their_experts_in_order(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    wanted = ("b", None, "a", "b")
    requests = [TraceRequest(id=f"{i}", t_ms=i, prompt="p", expert=name) for i, name in enumerate(wanted)]
    write_trace(path, TraceHeader(name="t"), requests)
    sequence = trace_sequence(path)
    assert (sequence.requests, sequence.source) == (("b", "a", "b"), "t.jsonl")
    assert sequence.sha256 == read_trace(path).sha256


def test_a_trace_without_experts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_trace(path, TraceHeader(name="t"), [TraceRequest(id="0", t_ms=0, prompt="p")])
    with pytest.raises(UsageError, match="must name experts, none does"):
        trace_sequence(path)


def test_a_described_sequence_has_the_popularity_and_switches_that_it_says() -> None:
    n = 4000
    names = synthetic_sequence(parse_synthetic(f"uniform,experts=4,switch=0.4,requests={n},seed=3")).requests
    # a redraw takes another expert three times of four
    switches = sum(a != b for a, b in pairwise(names)) / (n - 1)
    assert switches == pytest.approx(0.4 * 3 / 4, abs=4 * sqrt(0.3 * 0.7 / n))
    assert sorted(Counter(names)) == ["e000", "e001", "e002", "e003"]


def test_the_same_description_gives_the_same_sequence_and_another_seed_another() -> None:
    first, again, other = (
        synthetic_sequence(parse_synthetic(text)) for text in ("zipf:1", "zipf:1,seed=0", "zipf:1,seed=1")
    )
    assert first == again
    assert first.sha256 != other.sha256
    assert first.source == "zipf:1,experts=16,switch=1,drift=0,requests=2000,seed=0"


def test_drift_hands_popularity_on() -> None:
    names = synthetic_sequence(parse_synthetic("identical,experts=3,drift=2,requests=7")).requests
    assert names == ("e000", "e000", "e001", "e001", "e002", "e002", "e000")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zipf", "popularity must be"),
        ("uniform,slots=2", "one of experts, switch, drift, requests, seed, got 'slots=2'"),
        ("uniform,experts=x", "invalid literal"),
        ("uniform,experts=0", "at least 1"),
        ("uniform,switch=1.5", "between 0 and 1"),
        ("uniform,drift=-1", "at least 0"),
    ],
)
def test_a_description_that_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_synthetic(text)
