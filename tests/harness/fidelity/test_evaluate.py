from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.fidelity.allocator import AllocationConfig
from harness.fidelity.arms import DEFAULT_ARMS, Arm
from harness.fidelity.describe import size_of
from harness.fidelity.evaluate import FidelityOptions, evaluate_fidelity, experts_of
from harness.fidelity.scores import Record, read_file, record_path
from meswitch.codecs import parse_codec
from meswitch.errors import CapacityError

ENDS = (Arm(control="base", gains=(1.0,)), Arm(control="expert", gains=(1.0,)))
EXACT = Arm(spec="dense:dtype=float32", gains=(1.0, 0.5, None))
SIGNS = Arm(spec="rtn:bits=1,step=mse")


def scored(output: Path, task: str = "t", seed: int = 0) -> dict[tuple[str, float | None], Record]:
    return {record.key: record for record in read_file(record_path(output, task, seed))}


def options(output: Path, *arms: Arm, **changes: Any) -> FidelityOptions:
    return FidelityOptions(output=output, **({"experts": (("t", 0),), "arms": (*ENDS, *arms)} | changes))


def test_exact_delta_is_the_expert_and_gains_move_it_away(tmp_path: Path, tiny_family: Callable[..., Any]) -> None:
    assert evaluate_fidelity(tiny_family(), options(tmp_path, EXACT, SIGNS), lambda words: None)
    found = scored(tmp_path)
    kl = {key: sum(record.kl) for key, record in found.items()}
    assert kl[EXACT.spec, 1.0] == pytest.approx(0.0, abs=1e-4)
    assert kl["expert", 1.0] == 0.0
    assert 0.01 < kl[EXACT.spec, 0.5] < kl["base", 1.0]
    assert found[EXACT.spec, None].gain == pytest.approx(1.0, abs=0.02)
    assert 0.8 <= found[SIGNS.spec, None].gain <= 1.25
    assert found[SIGNS.spec, 1.0].nll != found["expert", 1.0].nll


def test_interrupted_evaluation_goes_on_where_it_stopped(tmp_path: Path, tiny_family: Callable[..., Any]) -> None:
    experts = experts_of(("t", "u"), (0, 1))
    said: list[str] = []

    def clock() -> float:
        return float(len(said))

    def go(deadline: float) -> bool:
        chosen = options(tmp_path, SIGNS, experts=experts, deadline_s=deadline)
        return evaluate_fidelity(tiny_family(), chosen, said.append, clock)

    assert not go(7.0)
    before = [len(scored(tmp_path, *place)) for place in experts]
    assert 0 < sum(before) < 16
    said.clear()
    assert go(float("inf"))
    assert [len(scored(tmp_path, *place)) for place in experts] == [4, 4, 4, 4]
    lines = [line for line in said if "calibrating" not in line]
    # an arm's gains are scored together
    assert len(lines) == 12 - sum({0: 0, 1: 1, 2: 2, 4: 3}[count] for count in before)
    said.clear()
    assert go(float("inf"))
    assert said == []


def test_budget_that_narrow_layers_cannot_keep_is_left_out_unless_it_was_asked_for(
    tmp_path: Path, tiny_family: Callable[..., Any]
) -> None:
    said: list[str] = []
    (usual,) = (arm for arm in DEFAULT_ARMS if arm.spec == "allocated:bits=0.55,by=plain")
    dear = AllocationConfig(candidates=("sparse-sign:group=8", "rtn:bits=1"))
    assert evaluate_fidelity(tiny_family(), options(tmp_path, usual, SIGNS, allocation=dear), said.append)
    assert {name for name, _ in scored(tmp_path)} == {"base", "expert", SIGNS.spec}
    assert any("0.55,by=plain is left out: the budget must be at least" in line for line in said)
    asked = Arm(spec="allocated:bits=0.3,by=plain", group="allocation")
    with pytest.raises(CapacityError, match=r"at least .* bits, .*, got 0\.3"):
        evaluate_fidelity(tiny_family(), options(tmp_path / "asked", asked, allocation=dear), said.append)


def test_experts_come_seed_by_seed() -> None:
    assert experts_of(("a", "b"), (0, 1)) == (("a", 0), ("b", 0), ("a", 1), ("b", 1))


def test_experts_can_be_named_to_share_the_work_out() -> None:
    assert experts_of(("a", "b"), (0, 1), ("b-1", "a-0")) == (("b", 1), ("a", 0))
    for name in ("a-2", "c-0", "a"):
        with pytest.raises(UsageError, match=f"seed below 2, got '{name}'"):
            experts_of(("a", "b"), (0, 1), (name,))


def test_half_trained_expert_is_measured_against_itself(tmp_path: Path, tiny_family: Callable[..., Any]) -> None:
    arms = (
        Arm(control="base", gains=(1.0,), half=True, group="half"),
        Arm(control="expert", gains=(1.0,), half=True, group="half"),
        Arm(spec=EXACT.spec, gains=(1.0,), half=True, group="half"),
    )
    assert evaluate_fidelity(tiny_family(half=True), options(tmp_path, *arms), lambda words: None)
    found = scored(tmp_path)
    assert sum(found[f"{EXACT.spec} half", 1.0].kl) == pytest.approx(0.0, abs=1e-4)
    assert found["expert half", 1.0].nll != found["expert", 1.0].nll
    assert evaluate_fidelity(tiny_family(half=False), options(tmp_path / "none", *arms), lambda words: None)
    assert len(scored(tmp_path / "none")) == 2


def test_bfloat16_checkpoint_is_near_but_not_the_expert(tmp_path: Path, tiny_family: Callable[..., Any]) -> None:
    evaluate_fidelity(tiny_family(), options(tmp_path, Arm(control="bfloat16", gains=(1.0,))), lambda words: None)
    assert 1e-7 < sum(scored(tmp_path)["bfloat16", 1.0].kl) < 1e-2


def test_bytes_are_those_of_what_the_codec_stores(tiny_family: Callable[..., Any]) -> None:
    subject, codec = tiny_family().subject("t", 0), parse_codec("rtn:bits=2")
    bits, size = size_of(codec, subject)
    compressed = [codec.compress(subject.expert[name] - subject.base[name]) for name in subject.linears]
    stored = sum(one.nbytes for one in compressed)
    weights = sum(subject.base[name].numel() for name in subject.linears)
    others = sum(t.numel() for name, t in subject.base.items() if name not in subject.linears)
    assert bits == 8 * stored / weights
    assert size == stored + 2 * others
