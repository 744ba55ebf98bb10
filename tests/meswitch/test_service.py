"""The engine behind process boundaries."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from meswitch.compress import CompressConfig, compress_expert
from meswitch.config import EngineConfig, RouterConfig
from meswitch.core import AUTO, BASE, Event, Failed, Finished, GenerationRequest, Routed, SamplingParams
from meswitch.errors import EngineError, ExpertNameError
from meswitch.families.pocket.model import pocket_config, pocket_tokenizer
from meswitch.service import EngineProcess
from tests.meswitch.serving_models import fine_tune, save_base, tiny_model


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    root = tmp_path_factory.mktemp("service")
    pocket = pocket_config(hidden=96, layers=2, intermediate=64)
    tokenizer: PreTrainedTokenizerFast = pocket_tokenizer()
    base = save_base(root / BASE, pocket)
    tiny_model(pocket, 7).save_pretrained(root / "router")
    expert = fine_tune(base, root / "whole", 1)
    for directory in (base, expert, root / "router"):
        tokenizer.save_pretrained(directory)
    compress_expert(CompressConfig(base=base, expert=expert, output=root / "delta", name="e1"))
    return EngineConfig(
        base=base,
        experts={"e1": root / "delta"},
        memory_budget_bytes=10**7,
        router=RouterConfig(model=root / "router", domains={"e1": "sums"}),
    )


@pytest.fixture
def engine(config: EngineConfig) -> Iterator[EngineProcess]:
    process = EngineProcess(config)
    yield process
    process.close()


def ask(request_id: str, expert: str, prompt: str = "ab") -> GenerationRequest:
    return GenerationRequest(request_id=request_id, expert=expert, prompt=prompt, sampling=SamplingParams(max_tokens=6))


def until_ended(engine: EngineProcess, count: int) -> list[Event]:
    events: list[Event] = []
    while sum(isinstance(event, Finished | Failed) for event in events) < count:
        new = engine.poll(30)
        assert new, "nothing came within 30 s"
        events.extend(new)
    return events


def test_requests_are_answered_and_what_breaks_the_engine_is_told(engine: EngineProcess) -> None:
    assert engine.poll(0) == []
    engine.send(ask("routed", AUTO))
    engine.send(ask("tagged", "e1"))
    engine.send(ask("unknown", "e9"))
    engine.cancel("nobody")
    events = until_ended(engine, 3)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.request_id, failed.error) == ("unknown", "UnknownExpertError")
    assert {event.request_id for event in events if isinstance(event, Finished)} == {"routed", "tagged"}
    confidence = {event.request_id: event.confidence for event in events if isinstance(event, Routed)}
    assert confidence["tagged"] is None
    assert 0.5 <= confidence["routed"] <= 1
    stats = engine.stats()
    assert stats.switches <= 1
    assert stats.weight_bytes["router"] > 0
    assert stats.weight_bytes["base"] > 0
    # where the seconds of the start went
    assert {"imports", "profiles", "weights"} <= stats.startup_s.keys()
    assert all(seconds >= 0 for seconds in stats.startup_s.values())
    assert Path(f"/proc/{engine.pid}").exists()
    for _ in range(2):
        engine.send(ask("same", BASE))
    with pytest.raises(EngineError, match="stopped with exit code 1: ValueError: request_id must be unique"):
        until_ended(engine, 3)


@pytest.mark.slow
def test_a_closed_engine_is_gone(engine: EngineProcess) -> None:
    engine.send(ask("r", BASE))
    engine.close()
    engine.close()
    assert not Path(f"/proc/{engine.pid}").exists()
    with pytest.raises(EngineError, match="closed"):
        engine.poll(0)
    with pytest.raises(EngineError, match="closed"):
        engine.send(ask("s", BASE))


@pytest.mark.slow
def test_a_crash_is_an_engine_error(engine: EngineProcess) -> None:
    engine.send(ask("r", BASE))
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="stopped with exit code -9"):
        until_ended(engine, 1)
    with pytest.raises(EngineError, match="stopped with exit code -9"):
        engine.stats()


def test_an_error_at_start_keeps_its_class_and_message(config: EngineConfig) -> None:
    # found before any model is built, so that the process need not import one first
    with pytest.raises(ExpertNameError, match="an expert's name must not be one of auto, base, got 'auto'"):
        EngineProcess(replace(config, experts={AUTO: config.experts["e1"]}))


def test_a_second_engine_lives_in_the_process_of_the_first_and_serves_its_own_experts(config: EngineConfig) -> None:
    plain = replace(config, router=None)
    engine = EngineProcess(plain)
    try:
        engine.send(ask("first", "e1"))
        assert isinstance(until_ended(engine, 1)[-1], Finished)
        pid = engine.pid
        # nothing of a GPU's is left, because nothing was taken
        assert engine.unload() == 0
        engine.load(replace(plain, experts={"e2": plain.experts["e1"]}))
        assert engine.pid == pid
        assert engine.stats().hits == 0
        engine.send(ask("second", "e2"))
        engine.send(ask("gone", "e1"))
        ended = {event.request_id: event for event in until_ended(engine, 2) if isinstance(event, Finished | Failed)}
        assert isinstance(ended["second"], Finished)
        assert isinstance(ended["gone"], Failed)
        engine.unload()
        with pytest.raises(ExpertNameError, match="got 'auto'"):
            engine.load(replace(plain, experts={AUTO: plain.experts["e1"]}))
        assert not Path(f"/proc/{pid}").exists()
    finally:
        engine.close()


@pytest.mark.slow
def test_a_process_that_died_between_two_engines_is_closed_by_the_one_that_finds_out(config: EngineConfig) -> None:
    engine = EngineProcess(replace(config, router=None))
    try:
        engine.unload()
        assert engine.is_alive
        os.kill(engine.pid, signal.SIGKILL)
        os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(EngineError, match="stopped with exit code -9"):
            engine.load(config)
        assert not engine.is_alive
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.poll(0)
    finally:
        engine.close()
