import pytest
import torch

from meswitch.codecs import decompress, parse_codec


def gaussian(N: int, K: int) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0))


def test_float32_is_exact():
    delta = gaussian(7, 33)
    assert torch.equal(decompress(parse_codec("dense").compress(delta)), delta)


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_half_types_round_to_nearest(dtype, torch_dtype):
    delta = gaussian(7, 33)
    described = decompress(parse_codec(f"dense:dtype={dtype}").compress(delta))
    assert torch.equal(described, delta.to(torch_dtype).float())


@pytest.mark.parametrize(("dtype", "nbytes"), [("float32", 1200), ("float16", 600), ("bfloat16", 600)])
def test_bytes_by_hand(dtype, nbytes):
    assert parse_codec(f"dense:dtype={dtype}").compress(gaussian(3, 100)).nbytes == nbytes


def test_a_delta_beyond_the_range_is_refused():
    with pytest.raises(
        ValueError, match=r"a value stored as torch.float16 must be at most 65504.0 in magnitude, got 70000.0"
    ):
        parse_codec("dense:dtype=float16").compress(torch.tensor([[70000.0]]))
