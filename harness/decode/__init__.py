"""How long one decode step takes on a GPU, beside the time that reading its bytes would take."""

from harness.decode.case import DEFAULT_CASES, DecodeCase, parse_cases
from harness.decode.options import DecodeOptions

__all__ = ["DEFAULT_CASES", "DecodeCase", "DecodeOptions", "parse_cases"]
