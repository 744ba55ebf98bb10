import math
from typing import Any

import pytest
import torch

from meswitch.core import SamplingParams
from meswitch.sampling import Sampler

LOGITS = torch.tensor([0.0, math.log(3.0), -torch.inf])


def draws(sampler: Sampler, count: int = 2000) -> list[int]:
    return [sampler.choose(LOGITS) for _ in range(count)]


def test_temperature_zero_takes_the_largest() -> None:
    assert set(draws(Sampler(SamplingParams(temperature=0)), 10)) == {1}


def test_temperature_one_draws_from_the_softmax() -> None:
    share = draws(Sampler(SamplingParams(temperature=1, seed=0))).count(1) / 2000
    # odds are 1 to 3; four standard errors of a share of 0.75 over 2000 draws
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 2000)


def test_a_higher_temperature_is_flatter() -> None:
    share = draws(Sampler(SamplingParams(temperature=2, seed=0))).count(1) / 2000
    expected = math.sqrt(3) / (1 + math.sqrt(3))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 2000)


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-30])
def test_the_smallest_temperatures_take_the_largest_too(temperature: float) -> None:
    assert set(draws(Sampler(SamplingParams(temperature=temperature, seed=0)), 10)) == {1}


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": math.nan}, {"temperature": math.inf}, {"temperature": -1.0}, {"seed": -1}, {"seed": 2**64}],
)
def test_parameters_that_no_draw_can_use_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        SamplingParams(**wrong)


def test_the_largest_seed_is_one() -> None:
    assert len(draws(Sampler(SamplingParams(temperature=1, seed=2**64 - 1)), 3)) == 3


def test_what_cannot_be_is_never_drawn() -> None:
    assert 2 not in draws(Sampler(SamplingParams(temperature=5, seed=1)))


def test_a_seed_fixes_the_draws_and_zero_is_a_seed() -> None:
    first, again, other = (draws(Sampler(SamplingParams(temperature=1, seed=s)), 50) for s in (0, 0, 1))
    assert first == again != other


def test_another_requests_draws_change_nothing() -> None:
    alone = draws(Sampler(SamplingParams(temperature=1, seed=0)), 50)
    ours, theirs = (Sampler(SamplingParams(temperature=1, seed=s)) for s in (0, 7))
    mixed = []
    for _ in range(50):
        mixed.append(ours.choose(LOGITS))
        theirs.choose(LOGITS)
    assert mixed == alone
