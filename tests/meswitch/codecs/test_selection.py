from functools import partial

import pytest
import torch

from meswitch.codecs import decompress, parse_codec
from meswitch.codecs.quantise import quantise_rows
from meswitch.codecs.selection import channel_errors, channel_scores, split_channels
from meswitch.errors import CodecOptionError


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


two_bits = partial(quantise_rows, bits=2, rule="unbiased")


def scores(delta, select, sums=None, seed=0):
    return channel_scores(delta, select=select, input_square_sum=sums, quantise=two_bits, seed=seed)


def test_error_is_what_quantising_a_channel_costs_in_the_output():
    delta, x = gaussian(6, 20), gaussian(11, 20, seed=1)
    described = decompress(parse_codec("rtn:bits=2,step=unbiased").compress(delta))
    # token by token and output by output, as the paper writes it
    expected = [
        sum(float(x[t, i] * (delta[j, i] - described[j, i])) ** 2 for t in range(11) for j in range(6))
        for i in range(20)
    ]
    got = scores(delta, "error", x.double().square().sum(dim=0))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0.0)


def test_without_calibration_the_error_is_of_the_weights_alone():
    delta = gaussian(6, 20)
    assert torch.equal(scores(delta, "error"), channel_errors(delta, two_bits))


def test_magnitude_wanda_and_activation_by_hand():
    delta, sums = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([2.0, 8.0], dtype=torch.float64)
    assert scores(delta, "magnitude", sums).tolist() == [10.0, 4.0]
    assert scores(delta, "wanda", sums).tolist() == [20.0, 32.0]
    assert scores(delta, "activation", sums).tolist() == [2.0, 8.0]


def test_random_depends_on_the_seed_alone():
    first, again, other = (split_channels(scores(gaussian(4, 50, seed=n), "random", seed=s), 5)[0] for n, s in
                           [(0, 0), (1, 0), (0, 1)])  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("select", ["wanda", "activation"])
def test_a_rule_that_needs_calibration_asks_for_it(select):
    with pytest.raises(CodecOptionError, match=f"select={select} needs calibration texts"):
        scores(gaussian(4, 50), select)


def test_channels_are_split_in_ascending_order():
    salient, rest = split_channels(torch.tensor([1.0, 5.0, 0.0, 9.0]), 2)
    assert salient.tolist() == [1, 3]
    assert rest.tolist() == [0, 2]


def test_of_equal_scores_the_lower_channel_is_salient():
    salient, rest = split_channels(torch.ones(1000), 3)
    assert salient.tolist() == [0, 1, 2]
    assert rest.tolist() == list(range(3, 1000))
