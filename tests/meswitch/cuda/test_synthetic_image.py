"""Random experts have the shapes, ranges and bytes of real ones, and are the same for the same seed and name."""

from collections.abc import Hashable

import pytest
import torch

from meswitch.config import SyntheticConfig
from meswitch.cuda.decoder_shape import DecoderShape
from meswitch.cuda.image import ImageSource, piece
from meswitch.cuda.slot_layout import CodeShape, MatrixPart, VectorPart
from meswitch.cuda.synthetic_image import SyntheticImageSource, SyntheticWholeSource, shared_sources, synthetic_layout
from meswitch.cuda.whole_layout import WholeWeights, whole_layout
from meswitch.errors import CodecOptionError, UnsupportedModelError

SHAPE = DecoderShape(
    layers=2,
    K=128,
    heads=8,
    kv_heads=8,
    head_dim=16,
    F=256,
    vocabulary=100,
    eps=1e-5,
    activation="silu",
    qkv_bias=True,
    qk_norm=True,
    window=None,
    tied=False,
)
LAYOUT = synthetic_layout(SyntheticConfig(), SHAPE)


def filled(source: ImageSource) -> torch.Tensor:
    image = torch.zeros(source.nbytes, dtype=torch.uint8)
    source.fill(image)
    return image


def test_the_layout_follows_the_codec_specs() -> None:
    assert LAYOUT.linear_code == CodeShape(bits=2, salient=8)
    assert LAYOUT.embedding.code == LAYOUT.head_part.code == CodeShape(bits=4, salient=0)
    with pytest.raises(UnsupportedModelError, match="got lowrank"):
        synthetic_layout(SyntheticConfig(linear="lowrank"), SHAPE)
    with pytest.raises(CodecOptionError):
        synthetic_layout(SyntheticConfig(head="rtn:bits=3"), SHAPE)


def test_every_matrix_has_random_codes_and_small_steps_and_values() -> None:
    image = filled(SyntheticImageSource(LAYOUT, seed=0, name="e"))
    for part in LAYOUT.parts():
        if isinstance(part, VectorPart):
            continue
        for _, places in part.places():
            octets = piece(image, places["codes"][0]).view(torch.uint8).float()
            # uniform bytes: mean 127.5, standard deviation 73.9
            assert abs(octets.mean() - 127.5) < 4 * 73.9 / octets.numel() ** 0.5
            steps = piece(image, places["step"][0])
            assert 1e-4 <= steps.min() <= steps.max() <= 3e-4
            assert len(steps.unique()) > len(steps) // 2
            if part.code.salient:
                assert 0 < piece(image, places["values"][0]).abs().max() < 0.01


def test_signed_positions_are_random_words_and_small_steps_too() -> None:
    layout = synthetic_layout(SyntheticConfig(linear="sparse-sign:group=4,channels=2"), SHAPE)
    image = filled(SyntheticImageSource(layout, seed=0, name="e"))
    part = layout.layers[0]["gate_up"]
    assert isinstance(part, MatrixPart)
    # 512 rows of two blocks of 64: a word and a unit of 16 bits each, a step, two values; two lists of channels
    assert part.end - part.codes == 512 * (2 * (4 + 2) + 4 + 2 * 2) + 256
    for _, places in part.places():
        assert piece(image, places["codes"][0]).shape == (1, 256, 2)
        assert len(piece(image, places["signs"][0]).unique()) > 400
        assert 1e-4 <= piece(image, places["step"][0]).min() <= piece(image, places["step"][0]).max() <= 3e-4


def test_salient_channels_ascend_and_are_equal_in_all_lists_of_a_matrix() -> None:
    image = filled(SyntheticImageSource(LAYOUT, seed=0, name="e"))
    down = LAYOUT.layers[0]["down"]
    assert isinstance(down, MatrixPart)
    for part in LAYOUT.layers[0].values():
        for _, places in part.places() if isinstance(part, MatrixPart) else ():
            lists = [piece(image, place).tolist() for place in places["salient"]]
            assert all(channels == lists[0] for channels in lists)
            assert lists[0] == sorted(set(lists[0]))
            assert len(lists[0]) == 8
            assert 0 <= lists[0][0] <= lists[0][-1] < part.K


def test_norms_are_one_and_biases_zero() -> None:
    image = filled(SyntheticImageSource(LAYOUT, seed=0, name="e"))
    found = {}
    for part in LAYOUT.parts():
        if isinstance(part, VectorPart):
            found |= {name: piece(image, place).unique().tolist() for name, place in part.places()}
    assert len(found) == 1 + 2 * (2 + 3 + 2)
    assert all(values == ([0.0] if name.endswith("bias") else [1.0]) for name, values in found.items())


def test_seed_and_name_decide_the_bytes() -> None:
    one, again, other, another = (
        filled(SyntheticImageSource(LAYOUT, seed=seed, name=name))
        for seed, name in ((0, "a"), (0, "a"), (0, "b"), (1, "a"))
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, another)


def test_a_random_model_is_normal_with_neutral_norms() -> None:
    layout = whole_layout(SHAPE, torch.bfloat16)
    source = SyntheticWholeSource(layout, seed=0, name="base")
    weights = WholeWeights(layout, filled(source))
    gate_up = weights.layers[1].gate_up.float()
    assert abs(gate_up.mean()) < 4 * 0.02 / gate_up.numel() ** 0.5
    assert gate_up.std() == pytest.approx(0.02, rel=4 / (2 * gate_up.numel()) ** 0.5)
    assert torch.equal(weights.final_norm, torch.ones(128))
    assert weights.layers[0].qkv_bias is not None
    assert torch.equal(weights.layers[0].qkv_bias, torch.zeros(3 * 128))
    assert not torch.equal(weights.memory, filled(SyntheticWholeSource(layout, seed=0, name="e0")))


def test_more_names_than_images_share_sources_in_turn() -> None:
    names = [f"e{i}" for i in range(5)]
    sources = shared_sources(names, lambda name: SyntheticImageSource(LAYOUT, seed=0, name=name), images=2)
    assert sources["e0"] is sources["e2"] is sources["e4"]
    assert sources["e1"] is sources["e3"]
    assert sources["e0"] is not sources["e1"]
    own = shared_sources(names, lambda name: SyntheticImageSource(LAYOUT, seed=0, name=name), images=None)
    assert len({id(source) for source in own.values()}) == 5


def test_an_image_that_holds_the_same_already_is_left_as_it_is_and_any_other_is_written_anew() -> None:
    drawn: dict[int, Hashable] = {}
    first = SyntheticImageSource(LAYOUT, seed=0, name="a", drawn=drawn)
    image = filled(first)
    expected = image.clone()
    # a mark that only a second drawing would remove
    image[0] ^= 255
    first.fill(image)
    assert not torch.equal(image, expected)
    SyntheticImageSource(LAYOUT, seed=0, name="b", drawn=drawn).fill(image)
    SyntheticImageSource(LAYOUT, seed=0, name="a", drawn=drawn).fill(image)
    assert torch.equal(image, expected)
    # without a memory of its images, a source draws each time
    image[0] ^= 255
    SyntheticImageSource(LAYOUT, seed=0, name="a").fill(image)
    assert torch.equal(image, expected)
