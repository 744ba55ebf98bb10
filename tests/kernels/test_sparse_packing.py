"""The arrangement of signed positions, by hand and by round trip."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meswitch_kernels.sparse_packing import (
    GROUPS,
    SPARSE_LAYOUT,
    expand_groups,
    pack_groups,
    plane_shapes,
    unpack_groups,
)


def random_codes(N: int, K: int, group: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2 * group, (N, -(-K // group)), generator=generator, dtype=torch.uint8)


def bits_of(plane: torch.Tensor) -> list[list[int]]:
    """Each row as a list of bits, the lowest bit of the first unit first."""
    width = 8 * plane.element_size()
    return [[(unit >> i) & 1 for unit in row for i in range(width)] for row in plane.tolist()]


@given(N=st.integers(0, 5), K=st.integers(1, 600), group=st.sampled_from(GROUPS), seed=st.integers(0, 2**32 - 1))
def test_unpack_returns_what_was_packed(N, K, group, seed):
    codes = random_codes(N, K, group, seed)
    planes = pack_groups(codes, group)
    for plane, (units, dtype) in zip(planes, plane_shapes(K, group), strict=True):
        assert plane.shape == (N, units)
        assert plane.dtype == dtype
    assert torch.equal(unpack_groups(*planes, group, K), codes)


@given(K=st.integers(1, 600), group=st.sampled_from(GROUPS), seed=st.integers(0, 99))
def test_every_bit_is_found_where_the_rule_says(K, group, seed):
    codes = random_codes(2, K, group, seed)
    position_bits = group.bit_length() - 1
    first, second = (bits_of(plane) for plane in pack_groups(codes, group))
    for n in range(2):
        for g, code in enumerate(codes[n].tolist()):
            width = 4 if group == 8 else position_bits
            got = sum(first[n][g * width + i] << i for i in range(width))
            if group != 8:
                got += group * second[n][g]
            assert got == code


def test_groups_of_eight_are_one_nibble_each():
    # group g of the first block keeps place g, the odd ones negative
    codes = torch.tensor([[0, 9, 2, 11, 4, 13, 6, 15]], dtype=torch.uint8)
    words, signs = pack_groups(codes, 8)
    assert words.numpy().view("uint32").tolist() == [[0xF6D4_B290]]
    assert signs.shape == (1, 0)


def test_groups_of_four_are_two_bits_and_a_sign():
    codes = torch.zeros(1, 16, dtype=torch.uint8)
    # places 1, 2, 3 in the groups 0, 1 and 15; the last two negative
    codes[0, 0], codes[0, 1], codes[0, 15] = 1, 4 + 2, 4 + 3
    words, signs = pack_groups(codes, 4)
    assert words.numpy().view("uint32").tolist() == [[3 << 30 | 2 << 2 | 1]]
    assert signs.numpy().view("uint16").tolist() == [[0x8002]]


def test_groups_of_sixteen_share_a_unit_of_signs_between_four_blocks():
    codes = torch.zeros(1, 20, dtype=torch.uint8)
    codes[0, 3], codes[0, 4], codes[0, 16] = 15, 16 + 7, 16
    words, signs = pack_groups(codes, 16)
    # four nibbles a block; group 4 opens the second block, group 16 the fifth
    assert words.numpy().view("uint16").tolist() == [[0xF000, 0x0007, 0, 0, 0]]
    assert signs.numpy().view("uint16").tolist() == [[0x0010, 0x0001]]


def test_levels_by_hand():
    # +1 in place 2, -1 in place 0, and a last group that is cut off after two elements
    codes = torch.tensor([[2, 4, 1]], dtype=torch.uint8)
    assert expand_groups(codes, 4, 10).tolist() == [[0, 0, 1, 0, -1, 0, 0, 0, 0, 1]]


@given(K=st.integers(1, 200), group=st.sampled_from(GROUPS), seed=st.integers(0, 99))
def test_a_whole_group_has_one_level(K, group, seed):
    levels = expand_groups(random_codes(3, K, group, seed), group, K)
    assert levels.shape == (3, K)
    whole = levels[:, : K // group * group].view(3, -1, group)
    assert torch.equal(whole.abs().sum(dim=-1), torch.ones(3, K // group))


@pytest.mark.parametrize(
    ("K", "group", "codes", "signs"),
    [(1, 4, 1, 1), (64, 4, 1, 1), (65, 4, 2, 2), (576, 8, 9, 0), (576, 16, 9, 3), (4096, 16, 64, 16), (0, 4, 0, 0)],
)
def test_units_per_row_by_hand(K, group, codes, signs):
    assert [units for units, _ in plane_shapes(K, group)] == [codes, signs]


@pytest.mark.parametrize(("group", "bits"), [(4, 0.75), (8, 0.5), (16, 0.3125)])
def test_rates_of_a_wide_row(group, bits):
    planes = plane_shapes(4096, group)
    assert sum(8 * units * dtype.itemsize for units, dtype in planes) / 4096 == bits


@pytest.mark.parametrize(("group", "cut"), [(4, 64), (8, 64), (16, 256)])
def test_a_cut_along_k_at_a_block_packs_to_a_cut_of_the_planes(group, cut):
    codes = random_codes(3, 1024, group, seed=0)
    whole, part = pack_groups(codes, group), pack_groups(codes[:, cut // group :], group)
    for full, tail in zip(whole, part, strict=True):
        assert torch.equal(full[:, full.shape[1] - tail.shape[1] :], tail)


@pytest.mark.parametrize("group", GROUPS)
def test_meta_tensors_give_shapes(group):
    planes = pack_groups(torch.empty(3, 25, dtype=torch.uint8, device="meta"), group)
    assert all(plane.is_meta for plane in planes)
    codes = unpack_groups(*planes, group, 25 * group)
    assert codes.shape == (3, 25)
    assert expand_groups(codes, group, 25 * group).shape == (3, 25 * group)


@pytest.mark.gpu
@pytest.mark.parametrize("group", GROUPS)
def test_cuda_packs_like_the_cpu(group):
    codes = random_codes(33, 200, group, seed=0)
    planes = pack_groups(codes.cuda(), group)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(planes, pack_groups(codes, group), strict=True))
    assert torch.equal(unpack_groups(*planes, group, 200).cpu(), codes)


def test_groups_of_two_are_refused():
    with pytest.raises(ValueError, match=r"group must be one of \(4, 8, 16\), got 2"):
        plane_shapes(64, 2)


def test_negative_k_is_refused():
    with pytest.raises(ValueError, match="K must be at least 0, got -1"):
        plane_shapes(-1, 8)


def test_a_code_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="codes must be below 8 in groups of 4, got 8"):
        pack_groups(torch.full((1, 16), 8, dtype=torch.uint8), 4)


def test_codes_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match=r"codes must be \[N, groups\] uint8, got \[2, 2\] torch.int64"):
        pack_groups(torch.zeros(2, 2, dtype=torch.int64), 8)


@pytest.mark.parametrize(
    ("codes", "signs", "message"),
    [
        (torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 2, dtype=torch.int16), r"codes must be \[N, 2\]"),
        (torch.zeros(1, 2, dtype=torch.int16), torch.zeros(1, 2, dtype=torch.int16), r"codes must be \[N, 2\]"),
        (torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int16), r"signs must be \[N, 2\]"),
    ],
)
def test_planes_of_another_shape_are_refused(codes, signs, message):
    with pytest.raises(ValueError, match=message + ".* for K = 65 in groups of 4, got"):
        unpack_groups(codes, signs, 4, 65)


def test_layout_has_its_published_name():
    assert SPARSE_LAYOUT == "sparse-sign-64/1"
