import pytest
import torch

from meswitch.codecs import CompressedDelta, decompress, parse_codec
from meswitch.errors import CodecOptionError, DeltaFormatError
from meswitch_kernels.packing import pack


def gaussian(N: int, K: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("drop", "kept"), [(0.9, 10), (0.5, 50), (0.0, 100), (0.999, 1)])
def test_every_row_keeps_its_share_enlarged(drop, kept):
    delta = gaussian(20, 100)
    described = decompress(parse_codec(f"dare:drop={drop}").compress(delta))
    assert ((described != 0).sum(dim=1) == kept).all()
    enlarged = (delta * (100 / kept)).half().float()
    assert torch.equal(described, torch.where(described != 0, enlarged, 0.0))


def test_it_is_the_delta_on_average_over_seeds():
    delta = torch.ones(1, 40)
    seeds = 400
    mean = sum(decompress(parse_codec(f"dare:drop=0.75,seed={seed}").compress(delta)) for seed in range(seeds)) / seeds
    # each element is 4 in a quarter of the seeds: a standard deviation of √3
    assert bool(((mean - 1.0).abs() < 4 * (3 / seeds) ** 0.5).all())


def test_places_depend_on_shape_and_seed_alone():
    first, again, other = (
        decompress(parse_codec(f"dare:seed={seed}").compress(gaussian(9, 100, n))) != 0
        for n, seed in [(0, 0), (1, 0), (0, 1)]
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_places_are_chosen_without_regard_to_a_delta_of_the_same_seed():
    delta = gaussian(256, 1024)
    kept = decompress(parse_codec("dare:drop=0.9,seed=0").compress(delta)) != 0
    # 256 · 102 squares of a normal number: mean 1, standard deviation √2
    assert abs(float(delta[kept].square().mean()) - 1) < 4 * (2 / (256 * 102)) ** 0.5


def test_bytes_by_hand():
    # a row: 2 blocks of 8 bytes of mask, and 10 values
    assert parse_codec("dare:drop=0.9").compress(gaussian(3, 100)).nbytes == 3 * (16 + 20)


def test_a_row_of_the_mask_with_another_number_is_refused():
    compressed = parse_codec("dare").compress(gaussian(3, 100))
    tensors = {**compressed.tensors, "mask": pack(torch.ones(3, 100, dtype=torch.uint8), 1)}
    with pytest.raises(DeltaFormatError, match="codec dare: the mask must keep 10 elements of every row"):
        decompress(CompressedDelta(codec="dare", options=compressed.options, shape=(3, 100), tensors=tensors))


def test_a_value_that_is_enlarged_beyond_float16_is_refused():
    with pytest.raises(ValueError, match=r"a value stored as torch.float16 must be at most 65504.0 in magnitude"):
        parse_codec("dare").compress(torch.full((1, 100), 1e4))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dare:drop=1", "codec dare: drop must be at least 0 and below 1, got 1.0"),
        ("dare:drop=-0.1", "codec dare: drop must be at least 0 and below 1, got -0.1"),
        ("dare:seed=-1", "codec dare: seed must be at least 0, got -1"),
    ],
)
def test_wrong_options_are_refused(spec, message):
    with pytest.raises(CodecOptionError, match=message):
        parse_codec(spec)
