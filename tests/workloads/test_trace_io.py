"""Traces survive being written and read; a fault is named by file, line and field; writing leaves no halves."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workloads.errors import TraceFormatError, WorkloadError
from workloads.trace import FieldError, Recorded, Sampling, Slo, TraceHeader, TraceRequest
from workloads.trace_io import bundled_traces, find_trace, read_trace, write_text_atomically, write_trace

HEADER = '{"type":"header","schema":"harness-trace/1","name":"t"}'
GOOD = '{"type":"request","id":"a","t":0,"prompt":"q"}'

names = st.text(min_size=1, max_size=8)
amounts = st.floats(min_value=0, max_value=1e12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.text(max_size=8), json_values, max_size=3)
inputs = st.one_of(
    st.integers(1, 10**6).map(lambda n: {"input_length": n}),
    st.text(max_size=20).map(lambda text: {"prompt": text}),
    st.lists(st.dictionaries(names, st.text(max_size=8), max_size=3), max_size=3).map(
        lambda turns: {"messages": tuple(turns)}
    ),
    st.lists(st.integers(0, 10**6), max_size=4).map(lambda ids: {"token_ids": tuple(ids)}),
    objects.map(lambda payload: {"payload": payload}),
)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def traces(draw: st.DrawFn) -> tuple[TraceHeader, list[TraceRequest]]:
    header = TraceHeader(
        name=draw(names),
        source=draw(maybe(st.text(max_size=8))),
        licence=draw(maybe(st.text(max_size=8))),
        sha256_of_source=draw(maybe(names)),
        block_size=draw(maybe(st.integers(1, 512))),
        seed=draw(maybe(st.integers())),
        assignment=draw(maybe(names)),
        generator=draw(maybe(objects)),
        extra=draw(objects),
    )
    ids = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    times = sorted(draw(amounts) for _ in ids)
    return header, [draw(requests(ids[:i], id_, t_ms)) for i, (id_, t_ms) in enumerate(zip(ids, times, strict=True))]


@st.composite
def requests(draw: st.DrawFn, earlier: list[str], id_: str, t_ms: float) -> TraceRequest:
    parent = draw(maybe(st.sampled_from(earlier))) if earlier else None
    answer = draw(maybe(st.text(max_size=8)))
    return TraceRequest(
        id=id_,
        t_ms=t_ms,
        session=draw(maybe(names)),
        turn=draw(maybe(st.integers(0, 9))),
        parent=parent,
        delay_ms=draw(maybe(amounts)) if parent is not None else None,
        expert=draw(maybe(names)),
        experts=draw(maybe(st.lists(st.tuples(names, amounts), max_size=2).map(tuple))),
        domain=draw(maybe(names)),
        tenant=draw(maybe(names)),
        priority=draw(st.integers(-2, 2)),
        output_length=draw(maybe(st.integers(1, 100))),
        hash_ids=draw(maybe(st.lists(st.integers(), max_size=3).map(tuple))),
        tools=draw(maybe(st.lists(objects, max_size=2).map(tuple))),
        sampling=draw(
            maybe(st.builds(Sampling, temperature=amounts, seed=maybe(st.integers()), ignore_eos=st.booleans()))
        ),
        slo=draw(maybe(st.builds(Slo, ttft_ms=maybe(amounts), tpot_ms=maybe(amounts), e2e_ms=maybe(amounts)))),
        cancel_after_ms=draw(maybe(amounts)),
        recorded=draw(maybe(st.builds(Recorded, model=maybe(names), e2e_ms=maybe(amounts), ok=maybe(st.booleans())))),
        task=draw(maybe(names)),
        answer=answer,
        verifier="exact" if answer is not None else None,
        extra=draw(objects),
        **draw(inputs),
    )


@given(traces())
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_written_is_read_back_the_same(tmp_path: Path, trace: tuple[TraceHeader, list[TraceRequest]]) -> None:
    header, written = trace
    path = tmp_path / "trace.jsonl"
    write_trace(path, header, written)
    read = read_trace(path)
    assert read.header == header
    assert list(read.requests) == written
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def read_lines(folder: Path, *lines: str) -> None:
    path = folder / "mixed.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    read_trace(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('"t":"x","prompt":"q"', "field t: must be a valid number, got 'x'"),
        ('"t":-1,"prompt":"q"', "field t: must be greater than or equal to 0, got -1"),
        ('"t":true,"prompt":"q"', "field t: must be a valid number, got True"),
        ('"t":1e999,"prompt":"q"', "field t: must be a finite number, got inf"),
        ('"t":NaN,"prompt":"q"', "field (line): must be JSON, which has no NaN"),
        ('"prompt":"q"', "field t: must be given, and is missing"),
        ('"t":1', "exactly one of them must be given, got none"),
        ('"t":1,"prompt":"q","input_length":3', "exactly one of them must be given, got input_length, prompt"),
        ('"t":1,"input_length":2.0', "field input_length: must be a valid integer, got 2.0"),
        ('"t":1,"prompt":"q","slo":{"ttft":5}', "field slo.ttft: is not a key of the schema"),
        ('"t":1,"prompt":"q","slo":{"ttft_ms":"5"}', "field slo.ttft_ms: must be a valid number, got '5'"),
        ('"t":1,"prompt":"q","sampling":{"top_p":1}', "field sampling.top_p: is not a key of the schema"),
        ('"t":1,"prompt":"q","experts":[["a"]]', "field experts.0.1: must be given, and is missing"),
        ('"t":1,"prompt":"q","answer":"4"', "field verifier: answer and verifier go together"),
        ('"t":1,"prompt":"q","verifier":"exact"', "field answer: answer and verifier go together"),
        ('"t":1,"prompt":"q","answer":"4","verifier":"vibes"', "field verifier: must be one of exact, integer"),
        ('"t":1,"prompt":"q","answer":"four","verifier":"integer"', "field answer: must pass its verifier integer"),
        ('"t":1,"prompt":"q","parent":"z"', "field parent: must be the id of an earlier request, got 'z'"),
        ('"t":1,"prompt":"q","delay":5', "field parent: must be given where delay is"),
        ('"t":1,"prompt":"q","id":"a"', "field id: must be unique in the trace, got 'a' again"),
        ('"t":1,"prompt":"q","type":"reply"', "field type: must be 'header' or 'request', got 'reply'"),
        ('"t":1,"prompt":"q","extra":3', "field extra: must be an object, got 3"),
    ],
)
def test_a_fault_is_named_by_file_line_and_field(tmp_path: Path, keys: str, message: str) -> None:
    line = '{"type":"request","id":"b",' + keys + "}"
    with pytest.raises(TraceFormatError) as caught:
        read_lines(tmp_path, HEADER, GOOD, line)
    assert str(caught.value).startswith("mixed.jsonl, line 3, field ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, GOOD, '{"id":"b"'], "line 3, field (line): must be one JSON object, but"),
        ([HEADER, GOOD, "[1]"], "line 3, field (line): must be a JSON object, got [1]"),
        ([HEADER, GOOD, "[" * 100_000], "line 3, field (line): must be one JSON object, but"),
        ([GOOD, HEADER], "line 2, field type: must be 'request' after the first line, got 'header'"),
        ([HEADER.replace("/1", "/2"), GOOD], "line 1, field schema: must be 'harness-trace/1', got 'harness-trace/2'"),
        ([HEADER.replace('"name":"t"', '"time_unit":"s","name":"t"'), GOOD], "line 1, field time_unit: must be 'ms'"),
        ([HEADER], "mixed.jsonl: must hold at least one request, got none"),
        ([""], "mixed.jsonl: must hold at least one request, got none"),
        ([GOOD.replace(":0,", ":5,"), GOOD.replace('"a"', '"b"')], "line 2, field t: must not go back in time, got 0"),
    ],
)
def test_a_fault_of_the_file_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(TraceFormatError) as caught:
        read_lines(tmp_path, *lines)
    assert message in str(caught.value)


def test_bytes_that_are_no_text_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\xff\xfe\n")
    with pytest.raises(TraceFormatError, match=r"mixed.jsonl, line 2, field \(line\): must be UTF-8"):
        read_trace(path)


def test_unknown_keys_are_kept_in_extra_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(GOOD[:-1] + ',"colour":"red","extra":{"size":3}}\n', encoding="utf-8")
    trace = read_trace(path)
    assert trace.requests[0].extra == {"colour": "red", "size": 3}
    write_trace(path, trace.header, trace.requests)
    assert read_trace(path).requests == trace.requests


def test_a_trace_without_header_takes_its_name_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text('{"id":"a","t":1.5,"input_length":7}\r\n\r\n', encoding="utf-8")
    trace = read_trace(path)
    assert trace.header == TraceHeader(name="plain")
    assert trace.requests == (TraceRequest(id="a", t_ms=1.5, input_length=7),)


def test_a_trace_knows_its_experts_and_its_duration(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    made = [TraceRequest(id=str(i), t_ms=500.0 * i, expert=e, prompt="q") for i, e in enumerate(["b", "a", "b"])]
    write_trace(path, TraceHeader(name="t"), made)
    trace = read_trace(path)
    assert trace.experts == ("a", "b")
    assert trace.duration_s == 1.0


def request(id_: str, t_ms: float) -> TraceRequest:
    return TraceRequest(id=id_, t_ms=t_ms, prompt="q")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: [request("a", 1), request("b", 0)], "must not go back in time"),
        (lambda: [request("a", 0), request("a", 1)], "must be unique"),
        (lambda: [], "at least one request"),
        (lambda: [TraceRequest(id="a", t_ms=0, payload={"x": float("nan")})], "not JSON compliant"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, made: Callable[[], list[TraceRequest]], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        write_trace(path, TraceHeader(name="t"), made())
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("old", encoding="utf-8")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkloadError, match=r"cannot write .*t\.jsonl: No space left on device"):
        write_text_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"cannot write .*: No such file or directory"):
        write_text_atomically(tmp_path / "nowhere" / "t.jsonl", "new")


def test_a_missing_trace_is_an_error_that_lists_the_bundled_names(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match=r"a bundled name \(mixed\.jsonl\): .*nowhere\.jsonl is no file"):
        find_trace(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("name", ["mixed.jsonl", "mixed"])
def test_the_bundled_trace_is_found_by_bare_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_trace(name) == bundled_traces()["mixed.jsonl"]


def test_a_file_in_the_current_folder_wins_over_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixed.jsonl").write_text(GOOD, encoding="utf-8")
    assert find_trace("mixed.jsonl").resolve() == tmp_path / "mixed.jsonl"


def test_a_path_with_a_folder_never_means_the_bundled_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TraceFormatError, match="is no file"):
        find_trace("./mixed.jsonl")
    with pytest.raises(TraceFormatError, match="is a folder"):
        find_trace(tmp_path)


@pytest.mark.parametrize("path", bundled_traces().values(), ids=lambda path: path.name)
def test_every_bundled_trace_is_valid_and_can_be_checked(path: Path) -> None:
    trace = read_trace(path)
    assert all(r.expert == r.task and r.verifier is not None and r.prompt for r in trace.requests)
    assert len({r.prompt for r in trace.requests}) == len(trace.requests)
    assert trace.header.seed is not None
    assert trace.header.licence is not None


def test_lines_are_json_without_absent_values(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_trace(path, TraceHeader(name="t", seed=0), [TraceRequest(id="a", t_ms=1.5, prompt="q", slo=Slo(ttft_ms=2.0))])
    header, line = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(header) == {
        "type": "header", "schema": "harness-trace/1", "name": "t", "seed": 0, "time_unit": "ms"
    }  # fmt: skip
    assert json.loads(line) == {"type": "request", "id": "a", "t": 1.5, "prompt": "q", "slo": {"ttft_ms": 2.0}}


@pytest.mark.parametrize("t_ms", [-1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused_in_code_too(t_ms: float) -> None:
    with pytest.raises(FieldError, match="t must be a number of at least 0"):
        request("a", t_ms)
