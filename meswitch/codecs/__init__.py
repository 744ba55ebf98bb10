"""Delta codecs: lossy descriptions of a weight delta, found by name.

`parse_codec("salient:bits=2,channels=8")` gives a codec; its `compress`, `decompress` and `layout` are pure.
"""

from meswitch.codecs.base import (
    Codec,
    CompressedDelta,
    OptionValue,
    SecondMomentCodec,
    TensorSpec,
    takes_second_moment,
)
from meswitch.codecs.gain import scale_delta
from meswitch.codecs.nested import first_plane
from meswitch.codecs.options import format_spec
from meswitch.codecs.registry import codec_names, decompress, get_codec, parse_codec, short_spec, shown_spec

__all__ = [
    "Codec",
    "CompressedDelta",
    "OptionValue",
    "SecondMomentCodec",
    "TensorSpec",
    "codec_names",
    "decompress",
    "first_plane",
    "format_spec",
    "get_codec",
    "parse_codec",
    "scale_delta",
    "short_spec",
    "shown_spec",
    "takes_second_moment",
]
