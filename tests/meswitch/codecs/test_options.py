import pytest

from meswitch.codecs import parse_codec
from meswitch.codecs.options import format_spec, parse_spec
from meswitch.errors import CodecOptionError, UnknownCodecError


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("dense", ("dense", {})),
        ("dense:", ("dense", {})),
        (" RTN : bits = 2 , step=mse ", ("rtn", {"bits": "2", "step": "mse"})),
    ],
)
def test_a_spec_is_a_name_and_options(spec, parsed):
    assert parse_spec(spec) == parsed


def test_format_writes_what_parse_reads():
    assert format_spec("salient", {"bits": 2, "refit": False}) == "salient:bits=2,refit=false"
    assert format_spec("bitdelta", {}) == "bitdelta"


def test_text_takes_the_type_of_the_option():
    options = parse_codec("salient:bits=4,select=random,refit=false").options
    assert options == {
        "bits": 4, "channels": 8, "select": "random", "step": "unbiased", "refit": False, "seed": 0
    }  # fmt: skip


@pytest.mark.parametrize("spec", ["", "  ", ":bits=2"])
def test_a_spec_without_a_name_is_refused(spec):
    with pytest.raises(UnknownCodecError, match="a codec spec must start with a name"):
        parse_codec(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rtn:bits", "a codec option must be key=value, got 'bits'"),
        ("rtn:bits=", "a codec option must be key=value, got 'bits='"),
        ("rtn:bits=2,", "a codec option must be key=value, got ''"),
        ("rtn:bits=2,bits=4", "a codec option must be given once, got 'bits' twice"),
        ("rtn:bit=2", r"codec rtn has no option 'bit' \(did you mean 'bits'\?\); its options: bits, step"),
        ("bitdelta:bits=1", "codec bitdelta has no option 'bits'; its options: none"),
        ("rtn:bits=two", "codec rtn: bits must be a whole number, got 'two'"),
        ("rtn:bits=2.0", "codec rtn: bits must be a whole number, got '2.0'"),
        ("rtn:bits=3", "codec rtn: bits must be one of 1, 2, 4, 8, got 3"),
        ("rtn:step=mes", r"codec rtn: step must be one of absmax, mse, unbiased, got mes \(did you mean 'mse'\?\)"),
        ("salient:refit=maybe", "codec salient: refit must be true or false, got 'maybe'"),
        ("salient:step=absmax", "codec salient: step must be one of mse, unbiased, got absmax"),
        ("dense:dtype=float8", r"codec dense: dtype must be one of float32, float16, bfloat16, got float8"),
    ],
)
def test_a_wrong_option_is_refused_by_name(spec, message):
    with pytest.raises(CodecOptionError, match=message):
        parse_codec(spec)
