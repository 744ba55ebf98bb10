"""The arrangement of bits, by hand and by round trip."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meswitch_kernels.packing import BITS, BLOCK, LAYOUT, pack, unpack, words_per_row


def random_codes(N: int, K: int, bits: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, (N, K), generator=generator, dtype=torch.uint8)


@given(N=st.integers(0, 5), K=st.integers(1, 200), bits=st.sampled_from(BITS), seed=st.integers(0, 2**32 - 1))
def test_unpack_returns_what_was_packed(N, K, bits, seed):
    codes = random_codes(N, K, bits, seed)
    words = pack(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (N, words_per_row(K, bits))
    assert torch.equal(unpack(words, bits, K), codes)


@given(K=st.integers(1, 200), bits=st.sampled_from(BITS), element=st.integers(0, 199), seed=st.integers(0, 99))
def test_element_is_found_where_the_formula_says(K, bits, element, seed):
    k = element % K
    codes = random_codes(2, K, bits, seed)
    words = pack(codes, bits).numpy().view("uint32")
    P = 2 * bits
    block, within = divmod(k, 64)
    i, j = divmod(within, P)
    for n in range(2):
        assert (int(words[n, block * P + j]) >> (i * bits)) % (1 << bits) == int(codes[n, k])


def test_two_bit_words_by_hand():
    codes = torch.zeros(1, 64, dtype=torch.uint8)
    # word 0 holds the elements 0, 4, 8, ... 60, two bits each: element 60 is the topmost pair
    codes[0, 0], codes[0, 4], codes[0, 60] = 1, 2, 3
    codes[0, 3] = 3  # the lowest pair of word 3
    expected = [0b11 << 30 | 0b10 << 2 | 0b01, 0, 0, 0b11]
    assert pack(codes, 2).numpy().view("uint32").tolist() == [expected]


def test_one_bit_words_by_hand():
    codes = torch.zeros(1, 64, dtype=torch.uint8)
    # even elements in word 0, odd ones in word 1
    codes[0, 0], codes[0, 62], codes[0, 63] = 1, 1, 1
    assert pack(codes, 1).numpy().view("uint32").tolist() == [[0x8000_0001, 0x8000_0000]]


def test_four_bit_words_by_hand():
    codes = torch.zeros(1, 64, dtype=torch.uint8)
    # word j holds the elements j, j + 8, ... j + 56
    codes[0, 1::8] = torch.arange(8, dtype=torch.uint8) + 8
    assert pack(codes, 4).numpy().view("uint32").tolist() == [[0, 0xFEDC_BA98, 0, 0, 0, 0, 0, 0]]


def test_eight_bit_words_by_hand():
    codes = torch.arange(64, dtype=torch.uint8).unsqueeze(0)
    # word j holds the elements j, j + 16, j + 32, j + 48
    words = pack(codes, 8).numpy().view("uint32").tolist()[0]
    assert words[:2] == [0x3020_1000, 0x3121_1101]
    assert words[15] == 0x3F2F_1F0F


def test_padding_codes_are_zero():
    words = pack(torch.ones(1, 65, dtype=torch.uint8), 1)
    assert words.tolist() == [[-1, -1, 1, 0]]


@pytest.mark.parametrize(
    ("K", "bits", "words"), [(1, 1, 2), (64, 1, 2), (65, 1, 4), (64, 2, 4), (100, 4, 16), (128, 8, 32), (0, 2, 0)]
)
def test_words_per_row_counts_whole_blocks(K, bits, words):
    assert words_per_row(K, bits) == words


def test_a_cut_along_k_at_a_block_packs_to_a_cut_of_the_words():
    codes = random_codes(3, 192, 2, seed=0)
    whole = pack(codes, 2)
    assert torch.equal(whole[:, 4:], pack(codes[:, BLOCK:], 2))


def test_non_contiguous_codes_and_words_are_accepted():
    codes = random_codes(70, 3, 4, seed=0)
    words = pack(codes.t(), 4)
    assert torch.equal(words, pack(codes.t().contiguous(), 4))
    assert torch.equal(unpack(words.t().contiguous().t(), 4, 70), codes.t())


@pytest.mark.parametrize("bits", BITS)
def test_meta_tensors_give_shapes(bits):
    words = pack(torch.empty(3, 100, dtype=torch.uint8, device="meta"), bits)
    assert words.device.type == "meta"
    assert words.shape == (3, words_per_row(100, bits))
    assert unpack(words, bits, 100).shape == (3, 100)


@pytest.mark.gpu
@pytest.mark.parametrize("bits", BITS)
def test_cuda_packs_like_the_cpu(bits):
    codes = random_codes(33, 200, bits, seed=0)
    words = pack(codes.cuda(), bits)
    assert torch.equal(words.cpu(), pack(codes, bits))
    assert torch.equal(unpack(words, bits, 200).cpu(), codes)


def test_three_bits_are_refused():
    with pytest.raises(ValueError, match=r"bits must be one of \(1, 2, 4, 8\), got 3"):
        words_per_row(64, 3)


def test_negative_k_is_refused():
    with pytest.raises(ValueError, match="K must be at least 0, got -1"):
        words_per_row(-1, 2)


def test_a_code_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="codes must be below 4 at 2 bits, got 4"):
        pack(torch.full((1, 64), 4, dtype=torch.uint8), 2)


def test_codes_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match=r"codes must be \[N, K\] uint8, got \[2, 2\] torch.int64"):
        pack(torch.zeros(2, 2, dtype=torch.int64), 2)


def test_words_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"words must be \[N, 8\] int32 for K = 65 at 2 bits, got \[1, 4\]"):
        unpack(torch.zeros(1, 4, dtype=torch.int32), 2, 65)


def test_layout_has_its_published_name():
    assert LAYOUT == "interleaved-64/1"
