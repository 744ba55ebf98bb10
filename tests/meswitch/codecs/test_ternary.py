import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meswitch.codecs import CompressedDelta, decompress, parse_codec
from meswitch.errors import CodecOptionError, DeltaFormatError
from meswitch_kernels.packing import pack, unpack


def gaussian(N: int, K: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


HAND = torch.tensor([[4.0, -1.0, 0.5, -2.0], [0.1, 0.0, -0.2, 0.3]])


def test_rows_by_hand():
    described = decompress(parse_codec("ternary:density=0.5,step=mse").compress(HAND))
    # the means of 4 and 2, and of 0.2 and 0.3
    torch.testing.assert_close(described, torch.tensor([[3.0, 0.0, 0.0, -3.0], [0.0, 0.0, -0.25, 0.25]]))


def test_the_whole_matrix_by_hand():
    compressed = parse_codec("ternary:density=0.5,scope=matrix,step=mse").compress(HAND)
    # the means of 4, 1, 0.5 and 2
    torch.testing.assert_close(decompress(compressed), 1.875 * torch.tensor([[1.0, -1, 1, -1], [0, 0, 0, 0]]))
    assert unpack(compressed.tensors["mask"], 1, 4).tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert unpack(compressed.tensors["signs"], 1, 4).tolist() == [[0, 1, 0, 1]]


def test_the_standard_deviation_by_hand():
    compressed = parse_codec("ternary:density=0.25,scope=matrix,step=std,alpha=2").compress(
        torch.tensor([[3.0, -3.0, 1.0, -1.0]])
    )
    # the mean square is 5; of equal magnitudes the first is kept
    torch.testing.assert_close(decompress(compressed), torch.tensor([[2 * 5**0.5, 0.0, 0.0, 0.0]]))


def one_by_one(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Signs of the largest of each row, found by sorting."""
    signs = torch.zeros_like(delta)
    for n, row in enumerate(delta.tolist()):
        order = sorted(range(len(row)), key=lambda k: (-abs(row[k]), k))
        for k in order[: max(1, round(density * len(row)))]:
            signs[n, k] = (row[k] > 0) - (row[k] < 0)
    return signs


@given(N=st.integers(1, 5), K=st.integers(1, 90), density=st.floats(0.01, 1.0), seed=st.integers(0, 999))
def test_rows_keep_the_signs_of_their_largest(N, K, density, seed):
    # few different values, so that there are many equals and zeros
    delta = (2 * gaussian(N, K, seed)).round() / 2
    codec = parse_codec(f"ternary:density={density},step=mse")
    assert torch.equal(decompress(codec.compress(delta)).sign(), one_by_one(delta, density))


@given(N=st.integers(1, 5), K=st.integers(1, 90), scope=st.sampled_from(["matrix", "row"]), seed=st.integers(0, 999))
def test_the_unbiased_step_keeps_the_length_along_the_delta(N, K, scope, seed):
    delta = gaussian(N, K, seed)
    described = decompress(parse_codec(f"ternary:scope={scope}").compress(delta)).double()
    dims = (0, 1) if scope == "matrix" else 1
    along, energy = (described * delta).sum(dim=dims), delta.double().square().sum(dim=dims)
    torch.testing.assert_close(along, energy, rtol=1e-5, atol=0.0)


def test_zeros_are_never_kept():
    delta = torch.zeros(2, 8)
    delta[0, 3] = -1.0
    described = decompress(parse_codec("ternary:density=0.5").compress(delta))
    assert torch.equal(described, delta)


def test_all_elements_with_one_scale_are_bitdelta():
    delta = gaussian(5, 70)
    full = decompress(parse_codec("ternary:density=1,scope=matrix,step=mse").compress(delta))
    torch.testing.assert_close(full, decompress(parse_codec("bitdelta").compress(delta)))


def test_bytes_by_hand():
    # a row: 2 blocks of 8 bytes of mask and a step; 3 · 20 signs are one block
    assert parse_codec("ternary:density=0.2").compress(gaussian(3, 100)).nbytes == 3 * (16 + 4) + 8
    # 150 of 300 signs are three blocks; one step
    spec = "ternary:density=0.5,scope=matrix"
    assert parse_codec(spec).compress(gaussian(3, 100)).nbytes == 3 * 16 + 24 + 4


def test_a_mask_with_more_elements_than_signs_is_refused():
    compressed = parse_codec("ternary:density=0.2").compress(gaussian(3, 100))
    tensors = {**compressed.tensors, "mask": pack(torch.ones(3, 100, dtype=torch.uint8), 1)}
    with pytest.raises(DeltaFormatError, match="codec ternary: the mask must keep at most 60, got 300 and more"):
        decompress(CompressedDelta(codec="ternary", options=compressed.options, shape=(3, 100), tensors=tensors))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ternary:density=0", "codec ternary: density must be above 0 and at most 1, got 0.0"),
        ("ternary:density=1.5", "codec ternary: density must be above 0 and at most 1, got 1.5"),
        ("ternary:density=nan", "codec ternary: density must be above 0 and at most 1, got nan"),
        ("ternary:alpha=0", "codec ternary: alpha must be finite and above 0, got 0.0"),
        ("ternary:alpha=inf", "codec ternary: alpha must be finite and above 0, got inf"),
        ("ternary:scope=rows", r"codec ternary: scope must be one of matrix, row, got rows \(did you mean 'row'\?\)"),
        ("ternary:step=max", "codec ternary: step must be one of std, mse, unbiased, got max"),
    ],
)
def test_wrong_options_are_refused(spec, message):
    with pytest.raises(CodecOptionError, match=message):
        parse_codec(spec)
