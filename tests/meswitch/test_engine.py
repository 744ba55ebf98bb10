"""Building an engine from directories, and every mistake in them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meswitch.compress import CompressConfig, compress_expert
from meswitch.config import EngineConfig, RouterConfig, StoreConfig
from meswitch.core import BASE, Failed
from meswitch.engine import build_engine
from meswitch.errors import (
    BaseMismatchError,
    CapacityError,
    CheckpointError,
    DeltaFormatError,
    ExpertNameError,
    UnknownExpertError,
    UnknownPolicyError,
    UnsupportedModelError,
)
from meswitch.merge import merge
from tests.meswitch.checkpoints import edit_json
from tests.meswitch.serving_models import (
    answers,
    ask,
    fine_tune,
    generate,
    random_prompts,
    run,
    save_base,
    tiny_config,
)

NAMES = ("e1", "e2")
CODECS = {"linear": "rtn:bits=4", "embedding": "rtn:bits=8", "head": "rtn:bits=8"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    """A base and two experts, one of them with a larger vocabulary, as deltas."""
    root = tmp_path_factory.mktemp("engine")
    base = save_base(root / BASE, tiny_config())
    for i, name in enumerate(NAMES, 1):
        fine_tune(base, root / "whole" / name, i, vocabulary=101 if name == "e2" else None)
        expert, output = root / "whole" / name, root / "delta" / name
        compress_expert(CompressConfig(base=base, expert=expert, output=output, name=name, **CODECS))
        merge(base, output, root / "merged" / name, torch.float32)
    experts = {name: root / "delta" / name for name in NAMES}
    return EngineConfig(base=base, experts=experts, memory_budget_bytes=10**7)


def whole(config: EngineConfig, kind: str = "whole", **changes: Any) -> EngineConfig:
    root = config.base.parent / kind
    return replace(config, weights="full", experts={name: root / name for name in NAMES}, **changes)


@pytest.mark.parametrize("budget_bytes", [10**7, 150_000])
def test_deltas_answer_as_the_merged_checkpoints_do(config: EngineConfig, budget_bytes: int) -> None:
    engine = build_engine(replace(config, memory_budget_bytes=budget_bytes))
    asked = list(zip((*NAMES, BASE) * 2, random_prompts(6, seed=2), strict=True))
    given = answers(run(engine, [ask(f"{i}", name, p) for i, (name, p) in enumerate(asked)]))
    engine.close()
    merged = {BASE: config.base, **{name: config.base.parent / "merged" / name for name in NAMES}}
    assert given == {f"{i}": generate(merged[name], p, 12) for i, (name, p) in enumerate(asked)}
    assert sum(engine.stats().weight_bytes.values()) <= budget_bytes


def test_merged_checkpoints_as_whole_models_answer_as_deltas_do(config: EngineConfig) -> None:
    requests = [ask(name, name, p) for name, p in zip(NAMES, random_prompts(2, seed=4), strict=True)]
    engines = [build_engine(c) for c in (config, whole(config, "merged"))]
    first, second = (answers(run(engine, requests)) for engine in engines)
    for engine in engines:
        engine.close()
    assert first == second


def test_a_grown_vocabulary_is_used(config: EngineConfig) -> None:
    engine = build_engine(config)
    events = run(engine, [ask("grown", "e2", [100, 99, 5]), ask("not", "e1", [100, 99, 5])])
    engine.close()
    merged = config.base.parent / "merged" / "e2"
    assert answers(events) == {"grown": generate(merged, [100, 99, 5], 12)}
    assert [event.error for event in events if isinstance(event, Failed)] == ["CheckpointError"]


def test_a_request_beyond_the_positions_of_the_base_is_refused(config: EngineConfig) -> None:
    engine = build_engine(config)
    events = run(engine, [ask("fits", "e1", [5], max_tokens=255), ask("not", "e1", [5], max_tokens=256)])
    engine.close()
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.request_id, failed.error) == ("not", "CapacityError")
    assert "input and output may have 256 tokens together, got 1 + 256" in failed.message


def test_a_larger_vocabulary_in_the_batch_changes_no_draw(config: EngineConfig) -> None:
    sampled = [ask(name, name, [5, 6], temperature=1.0, seed=0, ignore_eos=True) for name in NAMES]
    engine = build_engine(config)
    together = answers(run(engine, sampled))
    alone = [answers(run(engine, [request])) for request in sampled]
    engine.close()
    assert together == {**alone[0], **alone[1]}


@pytest.mark.parametrize("weights", ["delta", "full"])
def test_a_base_that_says_its_head_is_tied_but_stores_another_one_uses_that(tmp_path: Path, weights: str) -> None:
    base = save_base(tmp_path / "base", tiny_config(tie_word_embeddings=False))
    edit_json(base / "config.json", tie_word_embeddings=True)
    prompt = [5, 6, 7]
    engine = build_engine(EngineConfig(base=base, experts={}, weights=weights, memory_budget_bytes=10**7))
    given = answers(run(engine, [ask("r", BASE, prompt)]))
    engine.close()
    edit_json(base / "config.json", tie_word_embeddings=False)
    assert given == {"r": generate(base, prompt, 12)}


def test_a_budget_too_small_for_one_delta_says_the_numbers(config: EngineConfig) -> None:
    with pytest.raises(CapacityError, match=r"router 0 \+ base 86656 \+ expert e2 \d+ = \d+ bytes, got 100000"):
        build_engine(replace(config, memory_budget_bytes=100_000))


def test_a_budget_too_small_for_one_model_says_the_numbers(config: EngineConfig) -> None:
    with pytest.raises(CapacityError, match=r"router 0 \+ whole model e2 \d+ = \d+ bytes, got 86656"):
        build_engine(whole(config, memory_budget_bytes=86_656))


def damage(source: Path, target: Path, *, offset: int) -> Path:
    """A copy of a delta directory with one bit flipped."""
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    content = bytearray((target / "delta.safetensors").read_bytes())
    content[offset] ^= 1
    (target / "delta.safetensors").write_bytes(content)
    return target


def test_a_flipped_bit_fails_the_request_and_never_answers_as_the_base(config: EngineConfig, tmp_path: Path) -> None:
    damaged = damage(config.experts["e1"], tmp_path / "e1", offset=-1)
    engine = build_engine(replace(config, experts={"e1": damaged, "e2": config.experts["e2"]}))
    events = run(engine, [ask("bad", "e1", [5]), ask("good", "e2", [5])])
    engine.close()
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.request_id, failed.error) == ("bad", "DeltaFormatError")
    assert str(damaged) in failed.message
    assert list(answers(events)) == ["good"]


def test_a_damaged_companion_is_refused_before_start(config: EngineConfig, tmp_path: Path) -> None:
    damaged = damage(config.experts["e1"], tmp_path / "e1", offset=0)
    path = damaged / "tokenizer" / "generation_config.json"
    path.write_text(path.read_text().replace('"eos_token_id": 2', '"eos_token_id": 3'))
    with pytest.raises(DeltaFormatError, match=f"{path} is damaged"):
        build_engine(replace(config, experts={"e1": damaged}))


def test_a_truncated_delta_is_refused_before_start(config: EngineConfig, tmp_path: Path) -> None:
    damaged = damage(config.experts["e1"], tmp_path / "e1", offset=0)
    with (damaged / "delta.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DeltaFormatError, match=str(damaged)):
        build_engine(replace(config, experts={"e1": damaged}))


def test_a_directory_that_is_no_delta_is_refused(config: EngineConfig, tmp_path: Path) -> None:
    with pytest.raises(DeltaFormatError, match="nowhere"):
        build_engine(replace(config, experts={"e1": tmp_path / "nowhere"}))


def test_a_base_that_does_not_match_is_refused(config: EngineConfig, tmp_path: Path) -> None:
    other = save_base(tmp_path / "other", tiny_config(), seed=5)
    with pytest.raises(BaseMismatchError, match="use its own base"):
        build_engine(replace(config, base=other))


def test_a_missing_base_is_refused(config: EngineConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        build_engine(replace(config, base=tmp_path / "nowhere"))


def test_a_whole_model_that_computes_differently_is_refused(config: EngineConfig, tmp_path: Path) -> None:
    other = save_base(tmp_path / "other", tiny_config(rms_norm_eps=0.5))
    with pytest.raises(UnsupportedModelError, match="rms_norm_eps"):
        build_engine(replace(whole(config), experts={"e1": other}))


@pytest.mark.parametrize("names", [("auto",), ("Base",), ("x", "X"), ("a/b",)])
def test_names_that_cannot_be_asked_for_are_refused(config: EngineConfig, names: tuple[str, ...]) -> None:
    with pytest.raises(ExpertNameError):
        build_engine(replace(config, experts=dict.fromkeys(names, config.experts["e1"])))


@pytest.mark.parametrize(
    "router",
    [
        RouterConfig(model=Path("router"), domains={"e9": "nothing"}),
        RouterConfig(model=Path("router"), domains={"e1": "something"}, fallback="e9"),
    ],
)
def test_a_router_may_only_choose_experts_that_are_served(config: EngineConfig, router: RouterConfig) -> None:
    with pytest.raises(UnknownExpertError, match="'e9'"):
        build_engine(replace(config, router=router))


@pytest.mark.parametrize("weights", ["delta", "full"])
def test_a_pinned_expert_stays_while_others_are_switched(config: EngineConfig, weights: str) -> None:
    changes = {"store": StoreConfig(policy="lfu", pinned=("E1", BASE))}
    # the base and one more whole model beside a pinned one, or all deltas
    engine = build_engine(replace(config, **changes) if weights == "delta" else whole(config, "merged", **changes))
    requests = [ask(f"{i}", name, [5, 6]) for i, name in enumerate(("e2", "e1", BASE, "e2"))]
    given = answers(run(engine, requests))
    engine.check_integrity()
    engine.close()
    plain = build_engine(config)
    assert given == answers(run(plain, requests))
    plain.close()


def test_pins_that_leave_no_room_are_refused_before_start(config: EngineConfig) -> None:
    pinned = StoreConfig(pinned=("e1",))
    with pytest.raises(CapacityError, match=r"e1 take \d+ bytes and e2, the largest of the others, \d+, \d+ are left"):
        build_engine(whole(config, memory_budget_bytes=150_000, store=pinned))


def test_an_unknown_pinned_expert_is_refused_before_start(config: EngineConfig) -> None:
    with pytest.raises(UnknownExpertError, match="'e3'"):
        build_engine(replace(config, store=StoreConfig(pinned=("e3",))))


def test_an_unknown_policy_is_refused_before_start() -> None:
    with pytest.raises(UnknownPolicyError, match="one of lru, lfu, cost-aware, got 'mru'"):
        StoreConfig(policy="mru")
