import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meswitch.codecs import CompressedDelta, decompress, first_plane, parse_codec
from meswitch.errors import CodecOptionError, DeltaFormatError
from meswitch_kernels.packing import unpack


def gaussian(N: int, K: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * 1e-3


def test_planes_by_hand():
    delta = torch.tensor([[3.0, -3.0, 1.0, -1.0]])
    compressed = parse_codec("nested:step=mse").compress(delta)
    assert unpack(compressed.tensors["signs"], 1, 4).tolist() == [[1, 0, 1, 0]]
    # the levels are 1.5, -1.5, 0.5, -0.5: codes 3, 0, 2, 1
    assert unpack(compressed.tensors["refinement"], 1, 4).tolist() == [[1, 0, 0, 1]]
    torch.testing.assert_close(decompress(compressed), delta)
    torch.testing.assert_close(decompress(first_plane(compressed)), 2 * delta.sign())


def test_the_unbiased_first_plane_by_hand():
    delta = torch.tensor([[3.0, -3.0, 1.0, -1.0]])
    # ‖D‖² = 20 and Σ|D| = 8
    torch.testing.assert_close(decompress(first_plane(parse_codec("nested").compress(delta))), 2.5 * delta.sign())


@given(N=st.integers(1, 5), K=st.integers(1, 140), step=st.sampled_from(["mse", "unbiased"]), seed=st.integers(0, 999))
def test_both_planes_are_two_bits_and_the_first_is_one_bit(N, K, step, seed):
    delta = gaussian(N, K, seed)
    compressed = parse_codec(f"nested:step={step}").compress(delta)
    two, one = (parse_codec(f"rtn:bits={bits},step={step}").compress(delta) for bits in (2, 1))
    assert torch.equal(decompress(compressed), decompress(two))
    plane = first_plane(compressed)
    assert (plane.codec, plane.options, plane.shape) == (one.codec, one.options, one.shape)
    assert all(torch.equal(plane.tensors[name], one.tensors[name]) for name in one.tensors)


def test_the_first_plane_is_the_first_half_of_the_bytes():
    compressed = parse_codec("nested").compress(gaussian(4, 100))
    assert list(compressed.tensors)[:2] == ["signs", "sign_step"]
    # a row: 2 blocks of two words, and a step, in each plane
    assert compressed.nbytes == 2 * 4 * (16 + 4)
    assert first_plane(compressed).nbytes == compressed.nbytes // 2
    assert first_plane(compressed).tensors["codes"] is compressed.tensors["signs"]


def test_the_second_plane_refines():
    delta = gaussian(20, 300)
    compressed = parse_codec("nested:step=mse").compress(delta)
    coarse, fine = ((decompress(c) - delta).norm() for c in (first_plane(compressed), compressed))
    # 0.119 and 0.363 of the energy for Gaussian numbers
    assert float(fine) < 0.6 * float(coarse)


def test_only_nested_deltas_have_a_first_plane():
    with pytest.raises(ValueError, match="the first plane is one of a nested delta, got rtn"):
        first_plane(parse_codec("rtn:bits=2").compress(gaussian(2, 70)))


def test_a_damaged_delta_has_no_first_plane():
    compressed = parse_codec("nested").compress(gaussian(2, 70))
    cut = {name: tensor for name, tensor in compressed.tensors.items() if name != "signs"}
    with pytest.raises(DeltaFormatError, match="codec nested stores the tensors"):
        first_plane(CompressedDelta(codec="nested", options=compressed.options, shape=(2, 70), tensors=cut))


def test_wrong_steps_are_refused():
    with pytest.raises(CodecOptionError, match="codec nested: step must be one of mse, unbiased, got absmax"):
        parse_codec("nested:step=absmax")
