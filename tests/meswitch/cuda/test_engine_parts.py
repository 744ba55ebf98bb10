"""The GPU engine as a whole, its kernels interpreted, against `generate()` of each merged expert."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meswitch.architecture import describe, read_config
from meswitch.compress import compress_expert
from meswitch.compress_config import CompressConfig
from meswitch.config import DeviceConfig, EngineConfig, SchedulerConfig, SyntheticConfig
from meswitch.core import BASE, Admitted, Residency
from meswitch.cuda import engine_parts
from meswitch.cuda.engine_parts import build_parts, build_parts_on
from meswitch.errors import BaseMismatchError, CapacityError, EngineError, UnsupportedModelError
from meswitch.expert_profile import ExpertProfile
from meswitch.merge import merge
from meswitch.phases import Phases
from meswitch.switch_engine import SwitchEngine
from tests.meswitch.serving_models import answers, ask, fine_tune, generate, run, save_base, tiny_config

pytestmark = pytest.mark.usefixtures("few_programs")

CPU = torch.device("cpu")
BUDGET = 1 << 30
LIMITS = SchedulerConfig(max_rows=2, max_context_tokens=16)
DEVICE = DeviceConfig(kind="cuda", dtype="float32", prefill_chunk_tokens=4, use_graphs=False)
NAMES = ("e1", "e2", "e3")


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A base, three fine-tunes, their deltas and what those merge into."""
    folder = tmp_path_factory.mktemp("models")
    config = tiny_config(num_hidden_layers=1, hidden_size=64)
    found = {BASE: save_base(folder / "base", config)}
    for seed, name in enumerate(NAMES, 1):
        found[f"{name}.full"] = expert = fine_tune(found[BASE], folder / name, seed)
        found[f"{name}.delta"] = folder / f"{name}.delta"
        compress_expert(
            CompressConfig(base=found[BASE], expert=expert, output=found[f"{name}.delta"], name=name, force=True)
        )
        found[name] = folder / f"{name}.merged"
        merge(found[BASE], found[f"{name}.delta"], found[name])
    return found


def described(roots, folder: Path, name: str, linear: str) -> dict[str, Path]:
    """`roots` with an expert's linears described by another codec, and what those merge into."""
    found = {**roots, f"{name}.delta": folder / f"{name}.delta", name: folder / f"{name}.merged"}
    compress_expert(
        CompressConfig(
            base=roots[BASE],
            expert=roots[f"{name}.full"],
            output=found[f"{name}.delta"],
            name=name,
            linear=linear,
            force=True,
        )
    )
    merge(roots[BASE], found[f"{name}.delta"], found[name])
    return found


def engine(roots, **changes) -> SwitchEngine:
    weights = changes.get("weights", "delta")
    experts = {name: roots[f"{name}.delta" if weights == "delta" else name] for name in NAMES}
    config = EngineConfig(
        base=roots[BASE], experts=experts, memory_budget_bytes=BUDGET, scheduler=LIMITS, device=DEVICE
    )
    config = replace(config, **changes)
    base_config = read_config(config.base)
    parts = build_parts_on(
        CPU,
        config,
        base_config,
        limits=config.scheduler,
        executor=ThreadPoolExecutor(max_workers=1),
        architecture=describe(base_config),
    )
    profiles = {name: ExpertProfile(tokenizer=None, end_tokens=frozenset()) for name in (BASE, *config.experts)}
    return SwitchEngine(
        pool=parts.pool,
        batch=parts.batch,
        profiles=profiles,
        scheduler=config.scheduler,
        router=None,
        budget_bytes=BUDGET,
        kv_bytes=parts.plan.kv_bytes,
        on_close=parts.close,
    )


@pytest.mark.parametrize("weights", ["delta", "full"])
def test_each_request_is_answered_by_its_own_expert(roots, weights):
    device = replace(DEVICE, slots=2, model_buffers=2)
    served = engine(roots, weights=weights, device=device)
    prompts = {name: (3 + i, 14, 15, 9) for i, name in enumerate((*NAMES, BASE))}
    events = run(served, [ask(name, name, prompt, max_tokens=3) for name, prompt in prompts.items()])
    assert answers(events) == {name: generate(roots[name], prompt, 3) for name, prompt in prompts.items()}
    served.check_integrity()
    served.close()


def test_an_expert_without_a_slot_is_brought_from_host_memory(roots):
    served = engine(roots, device=replace(DEVICE, slots=1))
    first = run(served, [ask("a", "e1", (5, 6), max_tokens=2)])
    second = run(served, [ask("b", "e2", (5, 6), max_tokens=2), ask("c", "e2", (5, 6), max_tokens=2)])
    admitted = {event.request_id: event for event in [*first, *second] if isinstance(event, Admitted)}
    assert admitted["b"].residency is Residency.HOST
    assert admitted["b"].switch is not None
    assert admitted["b"].switch.evicted == ("e1",)
    assert served.stats().evictions == 1
    served.close()


def test_an_expert_in_bit_planes_ends_up_with_both(roots, tmp_path):
    nested = described(roots, tmp_path, "e1", "nested")
    served = engine(nested, experts={"e1": nested["e1.delta"]})
    # the first request brings it; where copies are immediate, the next step finds both planes
    run(served, [ask("a", "e1", (5, 6), max_tokens=1)])
    found = answers(run(served, [ask("b", "e1", (3, 14, 15, 9), max_tokens=3)]))
    assert found["b"] == generate(nested["e1"], (3, 14, 15, 9), 3)
    served.close()


@pytest.mark.parametrize("spec", ["group=8,channels=3", pytest.param("group=4,keep=2", marks=pytest.mark.slow)])
def test_an_expert_of_signed_positions_answers_as_what_it_merges_into(roots, tmp_path, spec):
    sparse = described(roots, tmp_path, "e1", f"sparse-sign:{spec}")
    served = engine(sparse, experts={"e1": sparse["e1.delta"]})
    prompts = {"e1": (3, 14, 15, 9), BASE: (4, 14, 15, 9)}
    events = run(served, [ask(name, name, prompt, max_tokens=2) for name, prompt in prompts.items()])
    assert answers(events) == {name: generate(sparse[name], prompt, 2) for name, prompt in prompts.items()}
    served.close()


def test_synthetic_experts_need_no_files_but_a_config(roots):
    synthetic = SyntheticConfig(linear="salient:bits=2,channels=2", host_images=1)
    served = engine(roots, synthetic=synthetic, experts=dict.fromkeys(("a", "b"), Path()), device=DEVICE)
    found = answers(run(served, [ask(name, name, (5, 6), max_tokens=2) for name in ("a", "b")]))
    assert {len(tokens) for tokens in found.values()} == {2}
    served.close()


@pytest.mark.parametrize("source", ["disk", "disk-cold"])
def test_a_model_from_the_disk_is_read_at_each_switch(roots, source):
    served = engine(roots, weights="full", device=replace(DEVICE, model_buffers=1, model_source=source))
    for name in ("e1", "e2", "e1"):
        (admitted,) = (e for e in run(served, [ask("r", name, (5, 6), max_tokens=1)]) if isinstance(e, Admitted))
        assert admitted.residency is Residency.DISK
    served.close()


def test_random_models_cannot_come_from_the_disk(roots):
    device = replace(DEVICE, model_source="disk")
    with pytest.raises(EngineError, match="random models have no files"):
        engine(roots, synthetic=SyntheticConfig(), weights="full", device=device)


def test_a_budget_below_the_base_and_one_expert_is_refused(roots):
    with pytest.raises(CapacityError, match="memory_budget_bytes must hold"):
        engine(roots, memory_budget_bytes=1 << 20)


def test_host_memory_for_less_than_one_expert_is_refused(roots):
    with pytest.raises(CapacityError, match="host_budget_bytes must hold one image of an expert"):
        engine(roots, device=replace(DEVICE, host_budget_bytes=1000))


def test_an_expert_of_another_base_is_refused(roots, tmp_path):
    other = save_base(tmp_path / "other", tiny_config(num_hidden_layers=1, hidden_size=64), seed=9)
    with pytest.raises(BaseMismatchError, match="expert e1 was made from base"):
        engine(roots, base=other)


def test_an_architecture_without_a_path_is_refused(roots, tmp_path):
    other = save_base(tmp_path / "gemma", tiny_config("gemma", num_hidden_layers=1))
    with pytest.raises(UnsupportedModelError, match="on CUDA a model must be one of llama"):
        engine(roots, base=other)


@pytest.mark.parametrize("weights", ["delta", "full"])
def test_nothing_holds_an_engine_that_was_closed(roots, weights):
    served = engine(roots, weights=weights, device=replace(DEVICE, slots=1, model_buffers=1))
    run(served, [ask("a", "e1", (5, 6), max_tokens=2)])
    held = [weakref.ref(served), weakref.ref(served._pool), weakref.ref(served._batch)]
    served.close()
    del served
    gc.collect()
    # another engine of this process needs the device's memory
    assert [reference() for reference in held] == [None, None, None]


def test_seconds_that_a_gpu_takes_to_answer_belong_to_its_context(roots, monkeypatch):
    now = [0.0]

    def asked(seconds: float, error: Exception | None = None) -> None:
        now[0] += seconds
        if error is not None:
            raise error

    phases = Phases(lambda: now[0])
    monkeypatch.setattr(engine_parts, "check_device", lambda config: asked(2.0))
    monkeypatch.setattr(engine_parts, "check_budget", lambda nbytes, index: asked(3.0, CapacityError("too large")))
    config = EngineConfig(base=roots[BASE], experts={}, memory_budget_bytes=BUDGET, scheduler=LIMITS, device=DEVICE)
    base_config = read_config(config.base)
    with ThreadPoolExecutor(max_workers=1) as executor, pytest.raises(CapacityError, match="too large"):
        build_parts(
            config,
            base_config,
            limits=LIMITS,
            executor=executor,
            architecture=describe(base_config),
            phases=phases,
        )
    assert phases.seconds == {"context": 5.0}
