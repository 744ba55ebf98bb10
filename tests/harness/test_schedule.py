import math

import pytest

from harness.errors import UsageError
from harness.schedule import build_schedule, warm_up_requests
from harness.token_prompts import TokenPrompts
from workloads.trace import Sampling, Slo, TraceRequest

MS = 1_000_000


@pytest.fixture
def schedule_of(make_trace):
    def build(*requests, **options):
        return build_schedule(make_trace(requests), **{"router": "tag", "experts": ("a", "b"), **options})

    return build


def request(name, t_ms, **fields):
    return TraceRequest(**{"id": name, "t_ms": t_ms, "prompt": name, "expert": "a", **fields})


def test_send_times_are_absolute_and_count_from_the_first_request(schedule_of):
    schedule = schedule_of(request("x", 250.5), request("y", 300), request("z", 1250.5))
    assert [item.due_ns for item in schedule] == [0, 49_500_000, 1000 * MS]


def test_a_rate_scale_of_two_replays_twice_as_fast(schedule_of):
    schedule = schedule_of(request("x", 0), request("y", 100), rate_scale=2)
    assert schedule[1].due_ns == 50 * MS


def test_the_router_decides_only_when_asked_to(schedule_of):
    assert schedule_of(request("x", 0))[0].request.expert == "a"
    routed = schedule_of(request("x", 0), router="llm")[0]
    assert routed.request.expert == "auto"
    assert routed.expert_wanted == "a"


def test_limits_lengths_and_sampling_come_from_the_trace(schedule_of):
    item = schedule_of(
        request("x", 0, output_length=7, slo=Slo(ttft_ms=5), sampling=Sampling(temperature=1.0, ignore_eos=True)),
        seed=40,
    )[0]
    assert item.request.sampling.max_tokens == 7
    assert item.request.sampling.ignore_eos
    assert item.request.sampling.seed == 40
    assert item.slo.ttft_ms == 5


def test_a_seed_of_zero_is_a_seed(schedule_of):
    sampled = request("x", 0, sampling=Sampling(temperature=1.0, seed=0))
    assert schedule_of(sampled, seed=40)[0].request.sampling.seed == 0
    assert schedule_of(request("x", 0, sampling=Sampling(temperature=1.0)), seed=0)[0].request.sampling.seed == 0


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"expert": "c"}, {}, "request x: the family has no expert 'c'; it has a, b"),
        ({"expert": None}, {}, "request x: names no expert, which --router tag needs"),
        ({"prompt": None, "input_length": 5}, {}, "request x: a replay needs prompt"),
        ({"cancel_after_ms": 5.0}, {}, "request x: cancel_after is not supported"),
        ({}, {"rate_scale": 0}, "--rate-scale must be positive and finite, got 0"),
        ({}, {"rate_scale": math.nan}, "--rate-scale must be positive and finite, got nan"),
        ({}, {"rate_scale": math.inf}, "--rate-scale must be positive and finite, got inf"),
    ],
)
def test_what_cannot_be_replayed_is_refused_by_name(schedule_of, fields, options, message):
    with pytest.raises(UsageError, match=message):
        schedule_of(request("x", 0, **fields), **options)


@pytest.mark.parametrize(("t_ms", "rate_scale"), [(1e300, 1.0), (1e300, 1e-300), (7 * 86_400_001.0, 1.0)])
def test_a_replay_that_would_not_end_in_a_week_is_refused(schedule_of, t_ms, rate_scale):
    with pytest.raises(UsageError, match=r"a replay must end within 604800 s, but request y"):
        schedule_of(request("x", 0), request("y", t_ms), rate_scale=rate_scale)


def test_warm_up_requests_are_the_first_ones_under_other_names(schedule_of):
    schedule = schedule_of(request("x", 0), request("y", 1))
    assert [r.request_id for r in warm_up_requests(schedule, 3)] == ["warm-up-0", "warm-up-1"]
    assert warm_up_requests(schedule, 1)[0].prompt == "x"


TOKENS = TokenPrompts(vocabulary=100, seed=3)


def test_a_recorded_length_becomes_so_many_tokens_and_its_answer_keeps_its_own_length(schedule_of):
    lengths = {"prompt": None, "input_length": 7, "output_length": 9}
    item = schedule_of(request("x", 0, **lengths), tokens=TOKENS)[0]
    assert len(item.request.token_ids) == 7
    assert all(0 <= token < 100 for token in item.request.token_ids)
    # an end token of the model must not shorten what was recorded
    assert (item.request.sampling.max_tokens, item.request.sampling.ignore_eos) == (9, True)
    assert item.answer is None


def test_drawn_tokens_follow_from_seed_and_place_alone(schedule_of):
    pair = [request(name, i, prompt=None, input_length=20) for i, name in enumerate("xy")]
    first, again = (schedule_of(*pair, tokens=TOKENS) for _ in range(2))
    assert [i.request.token_ids for i in first] == [i.request.token_ids for i in again]
    assert first[0].request.token_ids != first[1].request.token_ids
    other = schedule_of(*pair, tokens=TokenPrompts(vocabulary=100, seed=4))
    assert first[0].request.token_ids != other[0].request.token_ids


def test_a_text_stays_a_text_unless_the_model_has_no_tokenizer(schedule_of):
    asked = request("x", 0, prompt="0123456789", answer="a", verifier="exact")
    assert schedule_of(asked, tokens=TOKENS)[0].request.prompt == "0123456789"
    item = schedule_of(asked, tokens=TokenPrompts(vocabulary=100, replaces_text=True))[0]
    # ten bytes, four to a token; an answer to drawn tokens is not judged
    assert len(item.request.token_ids) == 2
    assert (item.request.prompt, item.answer, item.verifier) == (None, None, None)


def test_a_length_without_an_expert_is_told_where_experts_come_from(schedule_of):
    with pytest.raises(UsageError, match="names no expert, which --router tag needs; give it one with harness trace"):
        schedule_of(request("x", 0, prompt=None, input_length=5, expert=None), tokens=TOKENS)


def test_a_drawn_prompt_says_nothing_to_a_router(schedule_of):
    with pytest.raises(UsageError, match="request x: its prompt is drawn and says nothing to a router"):
        schedule_of(request("x", 0, prompt=None, input_length=5), router="llm", tokens=TOKENS)
