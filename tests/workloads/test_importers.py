"""Importers read what is published, keep it exact, compose the rest in the open, and name what they cannot read."""

import json
from pathlib import Path

import pytest

from workloads.arrivals import ArrivalConfig
from workloads.errors import TraceFormatError, WorkloadError
from workloads.importers import CompositionConfig, compose, get_importer
from workloads.popularity import PopularityConfig
from workloads.trace import Recorded, TraceRequest

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURST_2 = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def imported(folder: Path, source_format: str, text: str) -> list[TraceRequest]:
    path = folder / "source"
    path.write_bytes(text.encode())
    return list(get_importer(source_format)(path))


def test_azure_keeps_all_seven_digits_of_a_second(tmp_path: Path) -> None:
    rows = "2023-11-16 18:17:59.9799601,4808,10\r\n2023-11-16 18:18:00.0319600,3180,8\r\n"
    assert imported(tmp_path, "azure", AZURE + rows) == [
        TraceRequest(id="azure-2", t_ms=0.0, input_length=4808, output_length=10),
        TraceRequest(id="azure-3", t_ms=51.9999, input_length=3180, output_length=8),
    ]


def test_azure_reads_times_with_a_zone_and_without_a_fraction(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00.5+00:00,1,2\n2024-05-10 00:00:02+00:00,3,4\n"
    assert [r.t_ms for r in imported(tmp_path, "azure", AZURE + rows)] == [0.0, 1500.0]


def test_burstgpt_keeps_model_and_marks_failures(tmp_path: Path) -> None:
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n"
    assert imported(tmp_path, "burstgpt", BURST + rows) == [
        TraceRequest(
            id="burstgpt-2", t_ms=0.0, input_length=472, output_length=18, recorded=Recorded(model="ChatGPT", ok=True)
        ),
        TraceRequest(id="burstgpt-3", t_ms=40_000.0, input_length=1087, recorded=Recorded(model="GPT-4", ok=False)),
    ]


def test_burstgpt_finds_the_columns_of_version_two_by_name(tmp_path: Path) -> None:
    rows = "1000.0,s-1,43,GPT-4,906,446,1352,Conversation log\n1000.5,,2,ChatGPT,36,29,65,API log\n"
    first, second = imported(tmp_path, "burstgpt", BURST_2 + rows)
    assert (first.session, first.recorded) == ("s-1", Recorded(model="GPT-4", e2e_ms=43_000.0, ok=True))
    assert (second.session, second.t_ms) == (None, 500.0)


def test_mooncake_keeps_blocks_and_shared_times(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 0, "input_length": 90, "output_length": 7, "hash_ids": [2]},
    ]
    assert imported(tmp_path, "mooncake", "\n".join(map(json.dumps, lines))) == [
        TraceRequest(id="mooncake-1", t_ms=0.0, input_length=600, output_length=5, hash_ids=(0, 1)),
        TraceRequest(id="mooncake-2", t_ms=0.0, input_length=90, output_length=7, hash_ids=(2,)),
    ]


def test_sharegpt_measures_the_first_two_turns_and_leaves_the_text_behind(tmp_path: Path) -> None:
    conversations = [
        {"id": "x", "conversations": [{"from": "human", "value": "12345"}, {"from": "gpt", "value": "é" * 4}, {}]},
        {"id": "starts with an answer", "conversations": [{"from": "gpt", "value": "a"}]},
        {"id": "empty", "conversations": []},
    ]
    # 5 bytes are two tokens of at most four; four characters of two bytes are two
    assert imported(tmp_path, "sharegpt", json.dumps(conversations)) == [
        TraceRequest(id="sharegpt-1", t_ms=0.0, input_length=2, output_length=2)
    ]


@pytest.mark.parametrize(
    ("source_format", "text", "message"),
    [
        ("azure", "TIMESTAMP,ContextTokens\n", "source, line 1, field GeneratedTokens: must be a column"),
        ("azure", "", "source, line 1, field TIMESTAMP: must be a column; the first line has none"),
        ("azure", AZURE + "yesterday,1,2\n", "source, line 2, field TIMESTAMP: must be a date and time"),
        ("azure", AZURE + "2023-11-16 18:17:03.12345678,1,2\n", "line 2, field TIMESTAMP: must be a date and time"),
        ("azure", AZURE + "2023-11-16 18:17:03,x,2\n", "line 2, field ContextTokens: must be a number of at least 0"),
        ("azure", AZURE + "2023-11-16 18:17:03,1,0\n", "line 2, field GeneratedTokens: must be at least 1, got 0"),
        ("azure", AZURE + "2023-11-16 18:17:03,1\n", "line 2, field (line): must have 3 columns, got 2"),
        ("burstgpt", BURST + "5,M,1.5,2,3,L\n", "line 2, field Request tokens: must be a whole number, got '1.5'"),
        ("burstgpt", BURST + "inf,M,1,2,3,L\n", "line 2, field Timestamp: must be a number of at least 0"),
        ("burstgpt", BURST + "5,M,1,2,3,L\n4,M,1,2,3,L\n", "line 3, field Timestamp: must not be before the first"),
        ("mooncake", '{"timestamp":0,"output_length":1}', "line 1, field input_length: must be a number"),
        ("mooncake", '{"timestamp":true,"input_length":1,"output_length":1}', "field timestamp: must be a number"),
        ("mooncake", '{"timestamp":0,"input_length":1,"output_length":1,"hash_ids":["a"]}', "field hash_ids: must be"),
        ("mooncake", '\n{"timestamp"', "line 2, field (line): must be one JSON object"),
        ("mooncake", "[]", "line 1, field (line): must be a JSON object, got list"),
        ("sharegpt", "{}", "source: must be a JSON list of conversations, got dict"),
        ("sharegpt", "[", "source: must be one JSON list"),
        ("sharegpt", "[{}]", "conversation 1, field conversations: must be a list"),
        ("sharegpt", '[{"conversations":[{"from":"human"}]}]', "conversation 1, field value: must be text, got None"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_line_and_field(
    tmp_path: Path, source_format: str, text: str, message: str
) -> None:
    with pytest.raises(TraceFormatError) as caught:
        imported(tmp_path, source_format, text)
    assert message in str(caught.value)


def test_a_missing_source_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match=r"nowhere: cannot be read: No such file"):
        list(get_importer("mooncake")(tmp_path / "nowhere"))
    (tmp_path / "packed").write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(TraceFormatError, match="packed: must be UTF-8 text"):
        list(get_importer("mooncake")(tmp_path / "packed"))


def test_an_unknown_format_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(WorkloadError, match="one of azure, burstgpt, mooncake, sharegpt, got 'vidur'"):
        get_importer("vidur")


SOURCE = [TraceRequest(id=str(i), t_ms=float(t), input_length=1) for i, t in enumerate([20, 10, 10, 30])]


def test_composition_sorts_by_time_and_keeps_the_order_of_the_source_within_it() -> None:
    assert [r.id for r in compose(SOURCE, CompositionConfig())] == ["1", "2", "0", "3"]
    assert [r.id for r in compose(SOURCE, CompositionConfig(limit=2))] == ["1", "2"]


def test_assigned_experts_follow_the_popularity_and_are_declared_as_composed() -> None:
    config = CompositionConfig(experts=("a", "b", "c"), popularity=PopularityConfig(kind="distinct"))
    assert [r.expert for r in compose(SOURCE, config)] == ["a", "b", "c", "a"]
    assert config.declaration == (
        "experts composed, the source names none: distinct over a, b, c, switch probability 1"
    )


def test_composed_arrivals_replace_the_times_and_are_declared() -> None:
    config = CompositionConfig(arrivals=ArrivalConfig(kind="constant", rate_per_s=2.0))
    assert [r.t_ms for r in compose(SOURCE, config)] == [500.0, 1000.0, 1500.0, 2000.0]
    assert config.declaration == "experts: none assigned; arrivals composed: constant at 2 requests/s"


def test_spreading_moves_each_request_within_its_bin_and_is_declared() -> None:
    config = CompositionConfig(spread_ms=5.0)
    spread = compose(SOURCE, config)
    assert [r.t_ms for r in spread] == sorted(r.t_ms for r in spread)
    shifts = {r.id: r.t_ms - SOURCE[int(r.id)].t_ms for r in spread}
    assert all(0 <= shift <= 5 for shift in shifts.values())
    assert len(set(shifts.values())) == 4
    assert config.declaration.endswith("times spread uniformly within 5 ms")


def test_composition_is_seeded_and_zero_is_a_seed() -> None:
    def experts(seed: int) -> list[str | None]:
        config = CompositionConfig(experts=("a", "b"), popularity=PopularityConfig(kind="uniform"), seed=seed)
        return [r.expert for r in compose(SOURCE * 10, config)]

    assert experts(0) == experts(0) != experts(1)


def test_a_source_without_requests_is_an_error() -> None:
    with pytest.raises(WorkloadError, match="at least one usable request"):
        compose([], CompositionConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": ("a",)}, "go together"),
        ({"popularity": PopularityConfig()}, "go together"),
        ({"experts": ("a", "a"), "popularity": PopularityConfig()}, "must be distinct"),
        ({"spread_ms": -1.0}, "spread_ms must be"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"switch_probability": 2.0}, "between 0 and 1"),
    ],
)
def test_a_composition_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompositionConfig(**changes)  # type: ignore[arg-type]
