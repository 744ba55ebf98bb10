"""Tensors in an image are views of its bytes, and what no tensor covers is zero."""

import torch

from meswitch.codecs.base import TensorSpec
from meswitch.cuda.image import piece, zero_gaps
from meswitch.cuda.slot_layout import Place

PLACES = [Place(12, TensorSpec((2, 2), torch.float16)), Place(4, TensorSpec((1,), torch.int32))]


def test_a_piece_writes_into_the_image() -> None:
    image = torch.zeros(24, dtype=torch.uint8)
    piece(image, PLACES[1]).fill_(0x01020304)
    assert image[4:8].tolist() == [4, 3, 2, 1]
    assert piece(image, PLACES[0]).shape == (2, 2)


def test_gaps_before_between_and_behind_places_become_zero() -> None:
    image = torch.full((24,), 7, dtype=torch.uint8)
    zero_gaps(image, PLACES)
    assert image.tolist() == [0] * 4 + [7] * 4 + [0] * 4 + [7] * 8 + [0] * 4


def test_an_image_without_places_is_all_gap() -> None:
    image = torch.full((3,), 7, dtype=torch.uint8)
    zero_gaps(image, [])
    assert not image.any()
