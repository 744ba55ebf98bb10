"""Tables from hand-made records."""

from dataclasses import replace

import pytest

from harness.records import RequestRecord, SwitchRecord
from harness.telemetry.sample import Sample
from reports.tables import (
    NONE_CHOSEN,
    confusion_table,
    requests_table,
    samples_table,
    switches_table,
    to_csv,
    wrong_answers,
)
from workloads.trace import Slo

MS = 1_000_000
OK = RequestRecord(
    arm="a",
    index=0,
    request_id="r0",
    expert_wanted="x",
    expert_chosen="x",
    scheduled_ns=1000 * MS,
    sent_ns=1002 * MS,
    first_token_ns=1040 * MS,
    last_token_ns=1100 * MS,
    chunks=((1040 * MS, 1), (1100 * MS, 3)),
    output_tokens=4,
    outcome="ok",
    answer="7",
    output="7",
    correct=True,
    slo=Slo(ttft_ms=50.0),
)
FAILED = RequestRecord(
    arm="a", index=1, request_id="r1", expert_wanted="y", scheduled_ns=0, outcome="failed", correct=False
)


def test_request_row_has_derived_times_in_seconds() -> None:
    row = requests_table([OK]).iloc[0]
    assert row["ttft_s"] == pytest.approx(0.040)
    assert row["send_lag_s"] == pytest.approx(0.002)
    assert row["e2e_s"] == pytest.approx(0.100)
    assert row["tpot_s"] == pytest.approx(0.020)  # 60 ms for 3 tokens after the first
    assert row["scheduled_s"] == 1.0
    assert row["slo_ttft_s"] == 0.05


def test_what_did_not_happen_is_empty_and_not_zero() -> None:
    table = requests_table([OK, FAILED])
    assert table["ttft_s"].isna().tolist() == [False, True]
    header, _, line = to_csv(table).splitlines()
    assert dict(zip(header.split(","), line.split(","), strict=True))["ttft_s"] == ""


def test_switch_that_several_requests_waited_for_is_one_row() -> None:
    switch = SwitchRecord(
        expert="x", source="disk", decided_ns=5 * MS, ready_ns=9 * MS, moved_bytes=100, evicted=("y", "z")
    )
    records = [replace(OK, index=i, switch=switch) for i in range(3)]
    later = replace(OK, index=3, switch=replace(switch, decided_ns=20 * MS, ready_ns=21 * MS, evicted=()))
    table = switches_table([later, *records])
    assert table["requests"].tolist() == [3, 1]
    assert table["switch_s"].tolist() == pytest.approx([0.004, 0.001])
    assert table["evicted"].tolist() == ["y z", ""]


def test_confusion_counts_wanted_by_chosen_with_nothing_chosen_last() -> None:
    records = [OK, OK, FAILED, replace(OK, expert_chosen="base"), replace(OK, arm="b")]
    table = confusion_table(records, "a")
    assert table.columns.tolist() == ["x", "y", "base", NONE_CHOSEN]
    assert table.to_numpy().tolist() == [[2, 0, 1, 0], [0, 0, 0, 1]]
    assert table.index.tolist() == ["x", "y"]


def test_confusion_of_a_trace_without_experts_is_empty() -> None:
    assert confusion_table([replace(OK, expert_wanted=None)], "a").empty


def test_samples_keep_their_names_and_none_has_no_rows() -> None:
    table = samples_table([Sample(t_ns=500 * MS, arm="a", client_cpu_share=0.25)])
    assert (table["t_s"][0], table["client_cpu_share"][0]) == (0.5, 0.25)
    assert samples_table([]).empty


def test_wrong_answers_are_the_first_of_the_arm_and_count_failures() -> None:
    wrong = [replace(OK, index=i, correct=False) for i in (2, 3)]
    found = wrong_answers([OK, FAILED, *wrong, replace(FAILED, arm="b")], "a", limit=2)
    assert [record.index for record in found] == [1, 2]
