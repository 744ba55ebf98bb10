from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch

from meswitch.codecs import (
    CompressedDelta,
    codec_names,
    decompress,
    get_codec,
    parse_codec,
    registry,
    short_spec,
    shown_spec,
    takes_second_moment,
)
from meswitch.codecs.rtn import Rtn
from meswitch.errors import CodecOptionError, UnknownCodecError

BUILT_IN = (
    *("bitdelta", "dare", "dense", "eora", "gptq", "lowrank"),
    *("nested", "rtn", "salient", "sparse-sign", "ternary"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A codec of another package."""

    name: ClassVar[str] = "constant"

    value: float = 1.0

    @property
    def options(self) -> Mapping[str, float]:
        return {"value": self.value}

    def layout(self, N, K):
        return {}

    def compress(self, delta, *, input_square_sum=None):
        return CompressedDelta(codec=self.name, options=self.options, shape=tuple(delta.shape), tensors={})

    def decompress(self, compressed):
        return torch.full(compressed.shape, self.value)


@pytest.fixture
def installed(monkeypatch):
    points = [
        EntryPoint("constant", f"{__name__}:Constant", "meswitch.codecs"),
        EntryPoint("broken", "no_such_module:Codec", "meswitch.codecs"),
        EntryPoint("function", "math:sqrt", "meswitch.codecs"),
    ]
    load = EntryPoint.load
    # test modules have no importable name
    monkeypatch.setattr(EntryPoint, "load", lambda point: Constant if point.name == "constant" else load(point))
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "meswitch.codecs" else [])


def test_the_built_in_names_are_sorted():
    assert codec_names() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_codecs_that_use_second_moments_say_so(name):
    assert takes_second_moment(get_codec(name)) == (name in ("eora", "gptq"))


def test_get_codec_takes_typed_options():
    assert get_codec("rtn", {"bits": 2}) == Rtn(bits=2)


def test_an_option_of_another_type_is_refused():
    with pytest.raises(CodecOptionError, match="codec rtn: bits must be a whole number, got True"):
        get_codec("rtn", {"bits": True})


def test_an_unknown_name_lists_the_known_ones_and_the_closest():
    with pytest.raises(
        UnknownCodecError,
        match=r"no codec is called 'salent' \(did you mean 'salient'\?\); there are bitdelta, dare, ",
    ):
        parse_codec("salent:bits=2")


@pytest.mark.usefixtures("installed")
def test_a_codec_of_another_package_is_found():
    assert codec_names() == tuple(sorted((*BUILT_IN, "broken", "constant", "function")))
    compressed = parse_codec("constant:value=0.5").compress(torch.zeros(2, 3))
    assert decompress(compressed).tolist() == [[0.5] * 3] * 2


@pytest.mark.usefixtures("installed")
def test_a_codec_whose_package_is_broken_is_named():
    with pytest.raises(UnknownCodecError, match="codec broken of no_such_module:Codec cannot be loaded: No module"):
        parse_codec("broken")


@pytest.mark.usefixtures("installed")
def test_an_entry_point_that_is_no_dataclass_is_refused():
    with pytest.raises(UnknownCodecError, match="codec function must be a dataclass, got math:sqrt"):
        parse_codec("function")


@pytest.mark.usefixtures("installed")
def test_a_whole_number_is_a_number():
    assert get_codec("constant", {"value": 2}) == Constant(value=2.0)
    with pytest.raises(CodecOptionError, match="codec constant: value must be a number, got 'much'"):
        parse_codec("constant:value=much")


def test_decompress_finds_the_codec_by_its_name():
    unknown = CompressedDelta(codec="gone", options={}, shape=(1, 1), tensors={})
    with pytest.raises(UnknownCodecError, match="no codec is called 'gone'"):
        decompress(unknown)


@pytest.mark.parametrize(
    ("spec", "short"),
    [
        ("salient:bits=2,channels=8,select=error,step=mse,refit=true,seed=0", "salient:step=mse"),
        ("salient:bits=1,channels=8", "salient:bits=1"),
        ("bitdelta", "bitdelta"),
        ("rtn:bits=2,step=mse", "rtn:bits=2,step=mse"),
    ],
)
def test_a_short_spec_leaves_out_defaults_and_names_the_same_codec(spec, short):
    codec = parse_codec(short)
    assert parse_codec(short_spec(spec)) == parse_codec(spec) == codec
    assert short_spec(spec) == short


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("salient", "salient:bits=2,channels=8,step=unbiased"),
        ("salient:step=mse,bits=2,seed=0", "salient:bits=2,channels=8,step=mse"),
        ("salient:bits=1,refit=false", "salient:bits=1,channels=8,step=unbiased,refit=false"),
        ("bitdelta", "bitdelta"),
        ("rtn:bits=2", "rtn:bits=2,step=unbiased"),
        # channels and rank are 0, which is to have none
        ("sparse-sign", "sparse-sign:group=4,step=unbiased"),
        ("lowrank", "lowrank:bits=2.0,step=unbiased"),
    ],
)
def test_a_shown_spec_says_what_the_codec_keeps_and_names_the_same_codec(spec, shown):
    assert shown_spec(spec) == shown
    assert parse_codec(shown) == parse_codec(spec)


@pytest.mark.parametrize("spec", ["of-another-package:depth=3", "rtn:flavour=2"])
def test_the_spec_of_a_codec_that_is_not_there_stays_as_it_is(spec):
    assert short_spec(spec) == shown_spec(spec) == spec
