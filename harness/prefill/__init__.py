"""How long one prompt takes on a GPU until its first token, beside the base's products that it cannot do without."""

from harness.prefill.case import DEFAULT_TOKENS, PrefillCase, parse_cases
from harness.prefill.options import PrefillOptions

__all__ = ["DEFAULT_TOKENS", "PrefillCase", "PrefillOptions", "parse_cases"]
