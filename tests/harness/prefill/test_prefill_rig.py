"""The rig computes real prompts: here of a tiny model, kernel by kernel in the interpreter."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.prefill import PrefillCase, PrefillOptions, parse_cases
from harness.prefill.products import BaseProducts
from harness.prefill.rig import PrefillRig, build_prefill, plan_prefill, prefill_subject
from meswitch.config import SyntheticConfig
from meswitch.cuda.base_weights import random_base

CPU = torch.device("cpu")

LINEAR_WEIGHTS = (64 + 2 * 32) * 64 + 64 * 64 + 2 * 96 * 64 + 64 * 96


def options(tiny_model: Path, tokens: str, *, chunk_tokens: int = 512) -> PrefillOptions:
    return PrefillOptions(
        family=str(tiny_model),
        cases=parse_cases(tokens, start=0, has_single=False),
        synthetic=SyntheticConfig(linear="salient:bits=2,channels=3"),
        dtype="float16",
        repeats=3,
        chunk_tokens=chunk_tokens,
    )


def case(tokens: int, *, start: int = 0, has_expert: bool = True, launches: str = "graphs") -> PrefillCase:
    return PrefillCase(tokens=tokens, start=start, has_expert=has_expert, launches=launches)  # type: ignore[arg-type]


@pytest.mark.usefixtures("few_programs")
@torch.inference_mode()
def test_a_prompt_is_the_same_in_one_chunk_and_in_several_and_launched_either_way(tiny_model: Path) -> None:
    whole, cut = (
        PrefillRig(prefill_subject(asked), asked, CPU)
        for asked in (options(tiny_model, "6"), options(tiny_model, "6", chunk_tokens=4))
    )
    first = whole.run(case(6))
    assert 0 <= first.token < 67
    assert 0 < first.host_ms < first.prompt_ms
    assert cut.run(case(6)).token == first.token
    assert whole.run(case(6, launches="single")).token == first.token
    assert torch.allclose(rig_keys(whole)[:6], rig_keys(cut)[:6], atol=0.02)


@pytest.mark.usefixtures("few_programs")
@torch.inference_mode()
def test_a_prompt_of_an_expert_and_of_the_base_write_other_keys(tiny_model: Path) -> None:
    asked = options(tiny_model, "8")
    rig = PrefillRig(prefill_subject(asked), asked, CPU)
    written = []
    for has_expert in (True, False):
        rig.run(case(8, has_expert=has_expert))
        written.append(rig_keys(rig)[:8].clone())
    assert not torch.equal(*written)


@pytest.mark.usefixtures("few_programs")
@torch.inference_mode()
def test_what_is_before_a_prompt_is_left_in_the_cache_and_attended_to(tiny_model: Path) -> None:
    asked = PrefillOptions(
        family=str(tiny_model),
        cases=parse_cases("4", start=6, has_single=False),
        synthetic=SyntheticConfig(),
        dtype="float16",
        repeats=3,
    )
    rig = PrefillRig(prefill_subject(asked), asked, CPU)
    before = rig_keys(rig).clone()
    assert rig.run(case(4, start=6)).token >= 0
    after = rig_keys(rig)
    assert torch.equal(after[:6], before[:6])
    assert not torch.equal(after[6:10], before[6:10])


@torch.inference_mode()
def test_the_products_are_every_linear_for_all_tokens_and_the_head_for_one(tiny_model: Path) -> None:
    asked = options(tiny_model, "20", chunk_tokens=16)
    products = BaseProducts(
        random_base(prefill_subject(asked).layouts.whole, seed=0, device=CPU), most_tokens=16, graphs=None, seed=0
    )
    with FlopCounterMode(display=False) as counted:
        products.launch(asked.chunks(20))()
    assert counted.get_total_flops() == 2 * (20 * LINEAR_WEIGHTS + 67 * 64)


@pytest.mark.usefixtures("few_programs")
def test_building_computes_every_case(tiny_model: Path) -> None:
    asked = options(tiny_model, "3")
    assert isinstance(build_prefill(prefill_subject(asked), asked, CPU), PrefillRig)


@pytest.mark.parametrize(("tokens", "padded"), [("3", 16), ("17", 32), ("16,100", 128), ("500", 512), ("2000", 512)])
def test_lengths_are_padded_as_in_an_engine_whatever_else_is_measured(
    tokens: str, padded: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 40, 1 << 40))
    asked = options(tiny_model, tokens)
    rig = PrefillRig(prefill_subject(asked), asked, CPU)
    assert rig._runners["graphs"]._sizes[-1] == padded
    # one row of keys and values of 2 x 32 numbers, a padded chunk long at least
    plan = plan_prefill(prefill_subject(asked), asked, CPU)
    assert plan.slots == 1
    assert plan.kv_bytes == max(asked.row_tokens, padded) * 2 * 32 * 2


def rig_keys(rig: PrefillRig) -> torch.Tensor:
    """Keys of the one row, `[tokens, heads, head_dim]`."""
    cache = rig._runners["graphs"]._decoder._cache
    return cache.keys[0, 0].transpose(0, 1)
