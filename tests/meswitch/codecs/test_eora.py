import pytest
import torch

from meswitch.codecs import decompress, parse_codec
from meswitch.errors import CodecOptionError


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(tokens: int, K: int) -> torch.Tensor:
    return gaussian(tokens, 6, seed=3) @ gaussian(6, K, seed=4) + 0.3 * gaussian(tokens, K, seed=5)


def best(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    U, s, V = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((U[:, :rank] * s[:rank]) @ V[:rank]).float()


def as_published(error: torch.Tensor, moment: torch.Tensor, rank: int) -> torch.Tensor:
    """Into the eigenspace of the inputs, truncated there, and back."""
    values, vectors = torch.linalg.eigh(moment.double())
    return (best(error.double() @ vectors * values.sqrt(), rank).double() / values.sqrt() @ vectors.T).float()


@pytest.mark.parametrize("shape", [(30, 48), (60, 48)])
@pytest.mark.parametrize("codes", ["bits=2", "bits=1,step=unbiased", "bits=2,channels=3"])
def test_the_fix_is_the_published_one(shape, codes):
    delta, x = gaussian(*shape) * 1e-3, inputs(300, 48)
    moment = x.T @ x
    fixed = decompress(parse_codec(f"eora:rank=5,{codes}").compress(delta, input_second_moment=moment))
    step = "" if "step" in codes else ",step=mse"
    channels = "" if "channels" in codes else ",channels=0"
    coarse = decompress(parse_codec(f"salient:{codes}{channels}{step}").compress(delta))
    expected = as_published(delta - coarse, moment, 5)
    # FP16 rounds both factors
    assert float((fixed - coarse - expected).norm() / expected.norm()) < 2e-3


def test_without_calibration_the_fix_is_the_leading_part_of_the_error():
    delta = gaussian(30, 48) * 1e-3
    fixed = decompress(parse_codec("eora:rank=5").compress(delta))
    coarse = decompress(parse_codec("rtn:bits=2,step=mse").compress(delta))
    expected = best(delta - coarse, 5)
    assert float((fixed - coarse - expected).norm() / expected.norm()) < 2e-3


def test_second_moments_lose_less_in_the_output():
    delta, x = gaussian(30, 48), inputs(300, 48)
    codec = parse_codec("eora:rank=5")
    described = [codec.compress(delta), codec.compress(delta, input_second_moment=x.T @ x)]
    errors = [float((x @ (delta - decompress(d)).T).norm()) for d in described]
    assert errors[1] < 0.5 * errors[0]


def test_square_sums_choose_the_salient_channels():
    sums = torch.ones(48)
    sums[[5, 6]] = 1e6
    compressed = parse_codec("eora:channels=2").compress(gaussian(30, 48), input_square_sum=sums)
    assert compressed.tensors["salient"].tolist() == [5, 6]


def test_second_moments_are_not_modified():
    delta, x = gaussian(30, 48), inputs(300, 48)
    moment = x.T @ x
    before = moment.clone()
    parse_codec("eora").compress(delta, input_second_moment=moment)
    assert torch.equal(moment, before)


def test_a_row_of_zeros_stays_the_base():
    delta, x = gaussian(30, 48), inputs(300, 48)
    delta[3] = 0.0
    described = decompress(parse_codec("eora").compress(delta, input_second_moment=x.T @ x))
    # of the error of that row, 0, the fix is 0 but for the rounding of the solver
    assert float(described[3].abs().max()) < 1e-6


def test_bytes_by_hand():
    # a row: 32 bytes of codes, a step, 4 factors of 2 bytes; and 4 · 100 factors of 2 bytes
    assert parse_codec("eora:rank=4").compress(gaussian(5, 100)).nbytes == 5 * (32 + 4 + 8) + 800


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("eora:rank=0", "codec eora: rank must be at least 1, got 0"),
        ("eora:bits=3", "codec eora: bits must be one of 1, 2, 4, 8, got 3"),
        ("eora:step=absmax", "codec eora: step must be one of mse, unbiased, got absmax"),
        ("eora:select=best", "codec eora: select must be one of"),
        ("eora:channels=-1", "codec eora: channels must be at least 0, got -1"),
    ],
)
def test_wrong_options_are_refused(spec, message):
    with pytest.raises(CodecOptionError, match=message):
        parse_codec(spec)


def test_a_rank_that_the_delta_cannot_have_is_refused():
    with pytest.raises(CodecOptionError, match=r"codec eora: rank must be at most 4 for \[4, 70\], got 16"):
        parse_codec("eora").layout(4, 70)
