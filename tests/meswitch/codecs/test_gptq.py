import pytest
import torch

from meswitch.codecs import decompress, parse_codec
from meswitch.codecs.levels import nearest_levels
from meswitch.codecs.quantise import quantise_rows
from meswitch.errors import CodecOptionError


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated_inputs(tokens: int, K: int) -> torch.Tensor:
    """Inputs that vary mostly along a few directions."""
    return gaussian(tokens, 6, seed=3) @ gaussian(6, K, seed=4) + 0.3 * gaussian(tokens, K, seed=5)


def one_by_one(delta: torch.Tensor, moment: torch.Tensor, bits: int, damp: float) -> torch.Tensor:
    """Optimal brain surgery as it is derived: round a channel, change the rest, take the channel out of the inverse."""
    delta, moment = delta.double().clone(), moment.double()
    _, step = quantise_rows(delta.float(), bits=bits, rule="mse")
    inverse = torch.linalg.inv(moment + damp * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64))
    levels = torch.zeros_like(delta)
    for k in range(delta.shape[1]):
        levels[:, k] = nearest_levels(delta[:, k] / step, bits)
        error = (delta[:, k] - step * levels[:, k]) / inverse[k, k]
        delta[:, k:] -= error.unsqueeze(1) * inverse[k, k:]
        inverse = inverse - torch.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    return levels * step.unsqueeze(1)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("K", [20, 150])
def test_it_is_optimal_brain_surgery_channel_by_channel(bits, K):
    delta, x = gaussian(8, K) * 1e-3, correlated_inputs(400, K)
    codec = parse_codec(f"gptq:bits={bits},step=mse")
    got = decompress(codec.compress(delta, input_second_moment=x.T @ x))
    expected = one_by_one(delta, x.T @ x, bits, 0.01)
    # FP32 against FP64 may move a value across an edge, and with it the rest of that row
    same = torch.isclose(got.double(), expected, rtol=1e-5, atol=0.0).all(dim=1)
    assert int(same.sum()) >= 7


def test_two_channels_by_hand():
    # both inputs are always equal: the second channel takes all of the first one's error
    delta = torch.tensor([[0.9, 0.9]])
    codec = parse_codec("gptq:bits=1,step=mse,damp=0.000001")
    assert torch.allclose(decompress(codec.compress(delta)), torch.tensor([[0.9, 0.9]]))
    moment = torch.ones(2, 2)
    skewed = torch.tensor([[1.0, -0.2]])
    # the step of the magnitudes 1 and 0.2 is 1.2: 0.6 is written for 1, and -0.2 + 0.4 becomes +0.6
    torch.testing.assert_close(
        decompress(codec.compress(skewed, input_second_moment=moment)), torch.tensor([[0.6, 0.6]])
    )
    torch.testing.assert_close(decompress(codec.compress(skewed)), torch.tensor([[0.6, -0.6]]))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_outputs_are_nearer_than_those_of_round_to_nearest(bits):
    delta, x = gaussian(30, 96), correlated_inputs(500, 96)
    plain, fed = (
        decompress(parse_codec(f"{name}:bits={bits},step=mse").compress(delta, **moment))
        for name, moment in (("rtn", {}), ("gptq", {"input_second_moment": x.T @ x}))
    )
    errors = [float((x @ (delta - described).T).norm()) for described in (plain, fed)]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("step", ["mse", "unbiased"])
@pytest.mark.parametrize("moment", [None, torch.diag(torch.linspace(0.1, 4.0, 70))])
def test_independent_inputs_give_round_to_nearest(step, moment):
    delta = gaussian(9, 70)
    fed = parse_codec(f"gptq:step={step}").compress(delta, input_second_moment=moment)
    plain = parse_codec(f"rtn:bits=2,step={step}").compress(delta)
    assert all(torch.equal(fed.tensors[name], plain.tensors[name]) for name in plain.tensors)


def test_the_unbiased_step_keeps_the_length_along_the_delta():
    delta, x = gaussian(9, 70), correlated_inputs(200, 70)
    described = decompress(parse_codec("gptq").compress(delta, input_second_moment=x.T @ x))
    torch.testing.assert_close((described * delta).sum(dim=1), delta.square().sum(dim=1), rtol=1e-5, atol=0.0)


def test_inputs_that_never_occur_are_harmless():
    delta, x = gaussian(9, 70), correlated_inputs(200, 70)
    x[:, 20:40] = 0.0
    codec = parse_codec("gptq:step=mse")
    described = decompress(codec.compress(delta, input_second_moment=x.T @ x))
    plain = decompress(parse_codec("rtn:bits=2,step=mse").compress(delta))
    assert torch.equal(described[:, 20:40], plain[:, 20:40])
    silent = codec.compress(delta, input_second_moment=torch.zeros(70, 70))
    assert torch.equal(decompress(silent), plain)


def test_second_moments_are_not_modified_and_their_strides_do_not_matter():
    delta, x = gaussian(9, 70), correlated_inputs(200, 70)
    moment = x.T @ x
    before = moment.clone()
    codec = parse_codec("gptq")
    first, again = (codec.compress(delta, input_second_moment=m) for m in (moment, moment.T.contiguous().T))
    assert torch.equal(moment, before)
    torch.testing.assert_close(decompress(first), decompress(again))


def test_a_row_of_zeros_stays_exactly_the_base():
    delta, x = gaussian(9, 70), correlated_inputs(200, 70)
    delta[3] = 0.0
    assert not decompress(parse_codec("gptq").compress(delta, input_second_moment=x.T @ x))[3].any()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_bytes_are_those_of_round_to_nearest(bits):
    assert parse_codec(f"gptq:bits={bits}").layout(5, 70) == parse_codec(f"rtn:bits={bits}").layout(5, 70)


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (torch.ones(69, 69), r"input_second_moment must be \[70, 70\], got \[69, 69\]"),
        (torch.full((70, 70), torch.nan), "input_second_moment must be finite"),
        (-torch.eye(70), r"input_second_moment must have a diagonal of at least 0, got -1\.0"),
        (
            torch.eye(70) + torch.ones(70, 70).triu(1),
            r"input_second_moment must be symmetric, got a difference of 1\.0",
        ),
    ],
)
@pytest.mark.parametrize("name", ["gptq", "eora"])
def test_impossible_second_moments_are_refused(name, moment, message):
    with pytest.raises(ValueError, match=message):
        parse_codec(name).compress(gaussian(20, 70), input_second_moment=moment)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gptq:bits=3", "codec gptq: bits must be one of 1, 2, 4, 8, got 3"),
        ("gptq:step=absmax", "codec gptq: step must be one of mse, unbiased, got absmax"),
        ("gptq:damp=0", "codec gptq: damp must be finite and above 0, got 0.0"),
    ],
)
def test_wrong_options_are_refused(spec, message):
    with pytest.raises(CodecOptionError, match=message):
        parse_codec(spec)
