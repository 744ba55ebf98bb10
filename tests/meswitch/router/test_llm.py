from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from meswitch.errors import CapacityError, CheckpointError
from meswitch.families.pocket.model import pocket_config, pocket_tokenizer
from meswitch.router.base import Query, Route
from meswitch.router.llm import LlmRouter
from meswitch.router.prompt import router_prompt
from tests.meswitch.serving_models import tiny_model

DOMAINS = {"dates": "calendar dates", "sums": "arithmetic", "json": "fields of a JSON object"}
QUERIES = ["what is 3 + 4", "the day after March 1st?", "x", "über alles", 'the name in {"name": "Ada"}']


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("router")
    tiny_model(pocket_config(hidden=96, layers=2, intermediate=64), seed=0).save_pretrained(root)
    pocket_tokenizer().save_pretrained(root)
    return root


def router(checkpoint: Path, **options: Any) -> LlmRouter:
    return LlmRouter(checkpoint, **{"domains": DOMAINS, "fallback": "base", **options})


def test_the_distribution_is_the_softmax_of_the_letters_logits(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    got = router(checkpoint).probabilities(QUERIES)
    for row, query in zip(got, QUERIES, strict=True):
        ids = pocket_tokenizer()(router_prompt(DOMAINS, query).text)["input_ids"]
        logits = model(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(row, torch.softmax(logits[[65, 66, 67, 90]], dim=0), rtol=1e-4, atol=1e-6)


def test_reusing_the_options_changes_nothing(checkpoint: Path) -> None:
    cached, plain = (router(checkpoint, reuse_options=reuse) for reuse in (True, False))
    torch.testing.assert_close(cached.probabilities(QUERIES), plain.probabilities(QUERIES), rtol=1e-4, atol=1e-6)
    assert plain.kv_bytes == 0
    # <bos> and the options; two layers, one head of 32, keys and values in float32
    assert cached.kv_bytes == (1 + len(router_prompt(DOMAINS, "").options)) * 2 * 1 * 32 * 2 * 4


def test_a_route_does_not_depend_on_the_other_queries(checkpoint: Path) -> None:
    held = router(checkpoint)
    together = held.probabilities(QUERIES)
    alone = torch.cat([held.probabilities([query]) for query in QUERIES])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(held.probabilities(QUERIES), together)


class Fixed(LlmRouter):
    """A router whose model has made up its mind."""

    given = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.1, 0.2, 0.1, 0.6], [0.3, 0.2, 0.3, 0.2]])

    def _distributions(self, prompts: Any) -> torch.Tensor:
        return self.given[: len(prompts)]


def routes(checkpoint: Path, threshold: float) -> list[Route]:
    held = Fixed(checkpoint, domains=DOMAINS, fallback="base", threshold=threshold)
    return list(held.route([Query(text="x", tag="auto")] * 3))


def test_the_likeliest_expert_answers_and_none_of_these_falls_back(checkpoint: Path) -> None:
    assert [route.expert for route in routes(checkpoint, 0.0)] == ["sums", "base", "dates"]


def test_below_the_threshold_the_fallback_answers(checkpoint: Path) -> None:
    got = routes(checkpoint, 0.5)
    assert [route.expert for route in got] == ["sums", "base", "base"]
    assert [route.confidence for route in got] == pytest.approx([0.6, 0.6, 0.3])


def test_a_query_that_is_too_long_to_ask_falls_back_and_the_others_are_asked(checkpoint: Path) -> None:
    texts = ["x", "x" * 5000, "y"]
    long, short = (
        list(router(checkpoint).route([Query(text=text, tag="auto") for text in asked]))
        for asked in (texts, [texts[0], texts[2]])
    )
    assert long[1] == Route(expert="base", confidence=0.0)
    assert [long[0].expert, long[2].expert] == [route.expert for route in short]


def test_half_a_surrogate_pair_is_routed_like_a_question_mark(checkpoint: Path) -> None:
    broken, plain = router(checkpoint).probabilities(["a\ud800b", "a?b"])
    torch.testing.assert_close(broken, plain)


def test_bytes_are_those_of_the_weights_in_float32(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    assert router(checkpoint).nbytes == sum(p.numel() for p in model.parameters()) * 4


def test_a_router_needs_a_tokenizer(tmp_path: Path) -> None:
    tiny_model(pocket_config(hidden=96, layers=1, intermediate=64), seed=0).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        router(tmp_path)


def test_more_domains_than_letters_are_refused(checkpoint: Path) -> None:
    with pytest.raises(CapacityError, match="at most 51 domains apart, got 52; list fewer"):
        router(checkpoint, domains={f"e{i}": "x" for i in range(52)})
