from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch

from meswitch.codecs import CompressedDelta, decompress, first_plane, parse_codec, registry, scale_delta
from meswitch.errors import CodecOptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """A codec of another package that says nothing of gains."""

    name: ClassVar[str] = "fixed"

    @property
    def options(self) -> Mapping[str, float]:
        return {}


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_scaled_step_by_hand():
    delta = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    scaled = scale_delta(parse_codec("rtn:bits=1,step=mse").compress(delta), 1.5)
    assert scaled.tensors["step"].tolist() == [7.5]
    assert decompress(scaled).tolist() == [[3.75, -3.75, 3.75, -3.75]]


def test_codes_are_shared_and_not_copied():
    compressed = parse_codec("salient:channels=2").compress(gaussian(4, 70))
    scaled = scale_delta(compressed, 1.1)
    assert scaled.tensors["codes"] is compressed.tensors["codes"]
    assert scaled.tensors["salient"] is compressed.tensors["salient"]


def test_powers_of_two_are_exact():
    compressed = parse_codec("sparse-sign:group=8,channels=2").compress(gaussian(4, 70))
    assert torch.equal(decompress(scale_delta(compressed, 2.0)), 2 * decompress(compressed))


def test_both_precisions_of_nested_are_scaled():
    compressed = parse_codec("nested").compress(gaussian(4, 70))
    scaled = scale_delta(compressed, 2.0)
    assert torch.equal(decompress(first_plane(scaled)), 2 * decompress(first_plane(compressed)))


def test_the_gain_that_fits_best_makes_unbiased_steps_those_of_least_squares():
    delta = gaussian(1, 500)
    unbiased, least = (parse_codec(f"rtn:bits=1,step={step}").compress(delta) for step in ("unbiased", "mse"))
    described = decompress(unbiased)
    gain = float((described * delta).sum() / described.square().sum())
    torch.testing.assert_close(decompress(scale_delta(unbiased, gain)), decompress(least))


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_gain_is_refused(gain):
    with pytest.raises(ValueError, match=f"gain must be finite and above 0, got {gain}"):
        scale_delta(parse_codec("rtn").compress(gaussian(2, 70)), gain)


def test_a_value_that_no_longer_fits_is_refused():
    compressed = parse_codec("dense:dtype=float16").compress(torch.tensor([[60000.0]]))
    with pytest.raises(ValueError, match=r"a value stored as torch.float16 must be at most 65504.0 in magnitude"):
        scale_delta(compressed, 2.0)


def test_a_codec_that_does_not_say_how_is_named(monkeypatch):
    point = EntryPoint("fixed", f"{__name__}:Fixed", "meswitch.codecs")
    monkeypatch.setattr(EntryPoint, "load", lambda _: Fixed)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    compressed = CompressedDelta(codec="fixed", options={}, shape=(1, 1), tensors={})
    with pytest.raises(CodecOptionError, match="codec fixed must name its gain_tensors for a delta to be scaled"):
        scale_delta(compressed, 2.0)
