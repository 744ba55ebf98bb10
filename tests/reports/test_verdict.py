"""Whether a run may be quoted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.records import RequestRecord
from harness.summary import read_summary
from reports.verdict import run_verdict


def test_partial_run_says_so_in_its_first_word(
    make_run: Callable[..., Path], both_arms: Sequence[RequestRecord]
) -> None:
    summary = read_summary(make_run("partial", both_arms, status="partial") / "summary.json")
    verdict = run_verdict(summary)
    assert verdict.title == "PARTIAL, INVALID"
    assert any("partial" in reason for reason in verdict.reasons)
    assert run_verdict(replace(summary, valid=True, reasons=())).title == "PARTIAL"
    assert run_verdict(replace(summary, partial=False)).title == "INVALID"
