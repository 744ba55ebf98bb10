"""Codecs by name: the built-in ones, and those of other packages.

Another package adds a codec by an entry point of the group `meswitch.codecs` that names a frozen dataclass with the
methods of `Codec`; its fields are the options, each with a default. Built-in names cannot be taken.
"""

import dataclasses
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import torch

from meswitch.codecs.base import Codec, CompressedDelta, OptionValue
from meswitch.codecs.bitdelta import BitDelta
from meswitch.codecs.dare import Dare
from meswitch.codecs.dense import Dense
from meswitch.codecs.eora import Eora
from meswitch.codecs.gptq import Gptq
from meswitch.codecs.lowrank import LowRank
from meswitch.codecs.nested import Nested
from meswitch.codecs.options import closest, format_spec, parse_spec, typed_options
from meswitch.codecs.rtn import Rtn
from meswitch.codecs.salient import Salient
from meswitch.codecs.sparse_sign import SparseSign
from meswitch.codecs.ternary import Ternary
from meswitch.errors import CodecOptionError, UnknownCodecError

__all__ = ["ENTRY_POINT_GROUP", "codec_names", "decompress", "get_codec", "parse_codec", "short_spec", "shown_spec"]

ENTRY_POINT_GROUP = "meswitch.codecs"

ALWAYS_NAMED = frozenset({"bits", "channels", "density", "drop", "group", "rank", "step"})
"""Options that are named at their defaults too, unless that is none: what a codec keeps, and how its step is fitted."""

_BUILT_IN: Mapping[str, type[Any]] = {
    codec.name: codec
    for codec in (BitDelta, Dare, Dense, Eora, Gptq, LowRank, Nested, Rtn, Salient, SparseSign, Ternary)
}


def codec_names() -> tuple[str, ...]:
    """The names of all codecs that can be asked for, sorted."""
    return tuple(sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}))


def get_codec(name: str, options: Mapping[str, OptionValue] | None = None) -> Codec:
    """The codec `name` with `options`; those that are missing take their defaults.

    Raises:
        UnknownCodecError: if no codec has that name, or its package cannot be loaded.
        CodecOptionError: if the codec has no such option, or not with that value.
    """
    codec = _codec_class(name)
    return cast(Codec, codec(**typed_options(codec, options or {})))


def parse_codec(spec: str) -> Codec:
    """The codec that a spec such as `salient:bits=2,channels=8,step=unbiased` describes.

    Raises:
        UnknownCodecError: if no codec has that name, or its package cannot be loaded.
        CodecOptionError: if the codec has no such option, or not with that value.
    """
    name, options = parse_spec(spec)
    return get_codec(name, options)


def short_spec(spec: str) -> str:
    """`spec` without the options that are at their default, for a table; it parses to the same codec.

    The spec of a codec that is not installed, or has other options now, stays as it is.
    """
    return _without_defaults(spec, keep=frozenset())


def shown_spec(spec: str) -> str:
    """`spec` as people write it, such as `salient:bits=2,channels=8,step=unbiased`; it parses to the same codec.

    Options at their default are left out, but for those that say what the codec keeps and how its step is fitted.
    The spec of a codec that is not installed, or has other options now, stays as it is.
    """
    return _without_defaults(spec, keep=ALWAYS_NAMED)


def decompress(compressed: CompressedDelta) -> torch.Tensor:
    """The delta that `compressed` describes, `[N, K]` float32, on its tensors' device.

    Raises:
        UnknownCodecError: if its codec is not installed.
        CodecOptionError: if its options are not ones of that codec.
        DeltaFormatError: if its tensors are not the ones that the codec stores.
    """
    return get_codec(compressed.codec, compressed.options).decompress(compressed)


def _without_defaults(spec: str, *, keep: Collection[str]) -> str:
    """`spec` without options at their default, those of `keep` excepted where they are not 0."""
    try:
        codec = parse_codec(spec)
    except (UnknownCodecError, CodecOptionError):
        return spec
    defaults = type(codec)().options
    named = {k: v for k, v in codec.options.items() if defaults.get(k) != v or (k in keep and v)}
    return format_spec(codec.name, named)


def _codec_class(name: str) -> type[Any]:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return _loaded(point)
    names = codec_names()
    raise UnknownCodecError(f"no codec is called {name!r}{closest(name, names)}; there are {', '.join(names)}")


def _loaded(point: EntryPoint) -> type[Any]:
    try:
        codec = point.load()
    except Exception as error:  # another package's import may raise anything
        raise UnknownCodecError(f"codec {point.name} of {point.value} cannot be loaded: {error}") from error
    if not (isinstance(codec, type) and dataclasses.is_dataclass(codec)):
        raise UnknownCodecError(f"codec {point.name} must be a dataclass, got {point.value}: {codec!r}")
    return codec
