import pytest
import torch

from meswitch.codecs.levels import codes_of, largest_level, levels_of, nearest_levels


@pytest.mark.parametrize(("bits", "levels"), [(1, [-0.5, 0.5]), (2, [-1.5, -0.5, 0.5, 1.5])])
def test_few_bits_name_the_half_integers(bits, levels):
    assert levels_of(torch.arange(1 << bits, dtype=torch.uint8), bits).tolist() == levels


def test_eight_bits_name_the_integers():
    levels = levels_of(torch.tensor([0, 1, 128, 255], dtype=torch.uint8), 8)
    assert levels.tolist() == [-128.0, -127.0, 0.0, 127.0]


@pytest.mark.parametrize(("bits", "largest"), [(1, 0.5), (2, 1.5), (4, 7.5), (8, 127.0)])
def test_levels_are_written_symmetrically(bits, largest):
    assert largest_level(bits) == largest
    far = torch.tensor([-1e9, 1e9])
    assert nearest_levels(far, bits).tolist() == [-largest, largest]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_zero_goes_to_plus_one_half(bits):
    assert nearest_levels(torch.tensor([0.0, -0.0]), bits).tolist() == [0.5, 0.5]


def test_zero_stays_zero_at_eight_bits():
    assert nearest_levels(torch.tensor([0.0, 0.4, -0.4]), 8).tolist() == [0.0, 0.0, 0.0]


def test_nearest_levels_by_hand():
    scaled = torch.tensor([-1.1, -0.9, 0.2, 0.99, 1.01])
    assert nearest_levels(scaled, 2).tolist() == [-1.5, -0.5, 0.5, 0.5, 1.5]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codes_and_levels_undo_each_other(bits):
    codes = torch.arange(1 << bits, dtype=torch.uint8)
    assert torch.equal(codes_of(levels_of(codes, bits), bits), codes)


def test_scaled_values_are_not_modified():
    scaled = torch.tensor([0.3, 5.0])
    nearest_levels(scaled, 2)
    assert scaled.tolist() == [pytest.approx(0.3), 5.0]
