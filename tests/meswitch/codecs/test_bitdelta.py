import torch

from meswitch.codecs import decompress, parse_codec
from meswitch_kernels.packing import unpack


def test_signs_and_the_mean_magnitude_by_hand():
    delta = torch.tensor([[1.0, -2.0, 0.0], [6.0, -6.0, 3.0]])
    compressed = parse_codec("bitdelta").compress(delta)
    # the mean magnitude is 18 / 6 = 3; zero counts as positive
    assert decompress(compressed).tolist() == [[3.0, -3.0, 3.0], [3.0, -3.0, 3.0]]
    assert unpack(compressed.tensors["codes"], 1, 3).tolist() == [[1, 0, 1], [1, 0, 1]]
    assert compressed.tensors["step"].tolist() == [6.0]


def test_bytes_by_hand():
    # 100 signs take two blocks of two words; one step for all
    assert parse_codec("bitdelta").compress(torch.ones(3, 100)).nbytes == 3 * 16 + 4
