import json

import pytest

from harness.errors import RunFormatError
from harness.records import RecordWriter, RequestRecord, SwitchRecord, dump_line, read_records
from workloads.trace import Slo

MS = 1_000_000


def record(**fields):
    return RequestRecord(**{"arm": "a", "index": 0, "request_id": "r0", "scheduled_ns": 0, "outcome": "ok", **fields})


def test_records_survive_the_file(tmp_path):
    path = tmp_path / "requests.jsonl"
    written = record(
        switch=SwitchRecord(expert="b", source="disk", decided_ns=1, ready_ns=2, moved_bytes=3, evicted=("c",)),
        chunks=((5, 1), (6, 2)),
        output="é\n",
        slo=Slo(ttft_ms=1.5),
        correct=False,
    )
    with RecordWriter(path) as writer:
        writer.append(written)
    assert read_records(path) == [written]
    assert path.read_bytes().count(b"\n") == 1


def test_records_are_read_in_schedule_order_within_each_arm(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"".join(dump_line(record(arm=arm, index=i)) for arm, i in [("b", 1), ("b", 0), ("a", 0)]))
    assert [(r.arm, r.index) for r in read_records(path)] == [("b", 0), ("b", 1), ("a", 0)]


def test_a_damaged_line_is_named_by_file_line_and_field(tmp_path):
    path = tmp_path / "requests.jsonl"
    damaged = json.loads(dump_line(record())) | {"scheduled_ns": "soon"}
    path.write_bytes(dump_line(record()) + json.dumps(damaged).encode() + b"\n")
    with pytest.raises(RunFormatError, match=r"requests.jsonl, line 2, field scheduled_ns"):
        read_records(path)


def test_a_request_with_two_records_in_one_arm_is_refused(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"".join(dump_line(record(arm=arm, index=i)) for arm, i in [("a", 0), ("b", 0), ("a", 0)]))
    with pytest.raises(
        RunFormatError, match=r"requests.jsonl, line 3, field index: must be once in an arm, got 0 of a"
    ):
        read_records(path)


def test_missing_records_are_one_clear_error(tmp_path):
    with pytest.raises(RunFormatError, match="cannot read the records: No such file"):
        read_records(tmp_path / "requests.jsonl")


def test_what_did_not_happen_is_undefined_and_not_zero():
    unsent = record(outcome="unsent")
    assert (unsent.ttft_s, unsent.tpot_s, unsent.e2e_s, unsent.send_lag_s, unsent.route_s) == (None,) * 5


def test_tokens_of_the_first_chunk_are_not_divided_by():
    # first chunk of 3 tokens at 10 ms, 4 more until 50 ms: 40 ms / (7 - 3)
    chunked = record(
        first_token_ns=10 * MS, last_token_ns=50 * MS, chunks=((10 * MS, 3), (50 * MS, 4)), output_tokens=7
    )
    assert chunked.tpot_s == pytest.approx(0.010)
    assert chunked.client_tokens == 7


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (Slo(), True),
        (Slo(ttft_ms=10), True),
        (Slo(ttft_ms=9.9), False),
        (Slo(tpot_ms=5), True),
        (Slo(tpot_ms=4.9), False),
        (Slo(e2e_ms=20), True),
        (Slo(e2e_ms=19), False),
        (Slo(ttft_ms=10, tpot_ms=5, e2e_ms=19), False),
    ],
)
def test_every_limit_must_be_met(slo, met):
    # first token at 10 ms, last at 20 ms, 2 tokens after the first
    answered = record(
        first_token_ns=10 * MS,
        last_token_ns=20 * MS,
        chunks=((10 * MS, 1), (15 * MS, 1), (20 * MS, 1)),
        output_tokens=3,
        slo=slo,
    )
    assert answered.meets_slo is met


def test_a_failed_request_meets_no_slo_and_one_token_breaks_no_tpot():
    assert not record(outcome="failed").meets_slo
    single = record(first_token_ns=1, last_token_ns=1, chunks=((1, 1),), output_tokens=1, slo=Slo(tpot_ms=1))
    assert single.meets_slo
