import pytest
import torch

from meswitch.codecs import decompress, parse_codec
from meswitch_kernels.packing import unpack


def gaussian(N: int, K: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


def test_two_bits_by_hand():
    compressed = parse_codec("rtn:bits=2,step=absmax").compress(torch.tensor([[3.0, -3.0, 1.0, -0.5]]))
    # levels -1.5, -0.5, 0.5, 1.5 have the codes 0, 1, 2, 3
    assert unpack(compressed.tensors["codes"], 2, 4).tolist() == [[3, 0, 2, 1]]
    assert compressed.tensors["step"].tolist() == [2.0]
    assert decompress(compressed).tolist() == [[3.0, -3.0, 1.0, -1.0]]


def test_eight_bits_have_a_zero():
    compressed = parse_codec("rtn:bits=8,step=absmax").compress(torch.tensor([[127.0, 0.0, -127.0, 1.0]]))
    assert unpack(compressed.tensors["codes"], 8, 4).tolist() == [[255, 128, 1, 129]]
    assert decompress(compressed).tolist() == [[127.0, 0.0, -127.0, 1.0]]


@pytest.mark.parametrize(
    ("bits", "nbytes"),
    [
        # 100 elements are two blocks of 64; a row is 128 codes and a step of 4 bytes
        (1, 3 * (16 + 4)),
        (2, 3 * (32 + 4)),
        (4, 3 * (64 + 4)),
        (8, 3 * (128 + 4)),
    ],
)
def test_bytes_by_hand(bits, nbytes):
    assert parse_codec(f"rtn:bits={bits}").compress(gaussian(3, 100)).nbytes == nbytes


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_least_squares_shrinks_and_unbiased_does_not(bits):
    delta = gaussian(50, 500)
    shrunk, kept = (
        float((decompress(parse_codec(f"rtn:bits={bits},step={step}").compress(delta)) * delta).sum())
        / float(delta.square().sum())
        for step in ("mse", "unbiased")
    )
    assert kept == pytest.approx(1.0, abs=1e-5)
    # a Gaussian's signs keep 2/π of it, two bits 0.881
    expected = {1: 2 / torch.pi, 2: 0.881, 4: 0.9885, 8: 0.9999}[bits]
    assert shrunk == pytest.approx(expected, abs=0.01)


def test_rows_have_steps_of_their_own():
    delta = gaussian(2, 300)
    scaled = decompress(parse_codec("rtn:bits=2").compress(delta * torch.tensor([[1.0], [1024.0]])))
    plain = decompress(parse_codec("rtn:bits=2").compress(delta))
    assert torch.equal(scaled, plain * torch.tensor([[1.0], [1024.0]]))
