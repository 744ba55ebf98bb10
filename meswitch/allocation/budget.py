"""A budget as people write it: bytes of the whole expert, or bits per weight of its linears."""

import re
from math import ceil

from meswitch.errors import CapacityError, CodecOptionError

__all__ = ["parse_budget"]

UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


DECIMALS = 4
"""Of a budget that is proposed."""


def parse_budget(text: str, *, linear_weights: int, other_bytes: int, least_bytes: int = 1) -> int:
    """The bytes that all linears together may take.

    Args:
        text: `2.25bits` for each weight of the linears, or `1.2GB` for the whole expert.
        linear_weights: weights of all linears.
        other_bytes: what the expert takes besides its linears.
        least_bytes: what the linears take at least, with the cheapest candidates.

    Raises:
        CodecOptionError: it is neither.
        CapacityError: it leaves less for the linears; with the least budget that works, in the unit of `text`.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    amount, unit = (float(found.group(1)), found.group(2).lower()) if found else (0.0, "?")
    in_bits = unit in ("bit", "bits")
    if not in_bits and unit not in UNITS:
        raise CodecOptionError(f"a budget must look like 2.25bits or 1.2GB, got {text!r}")
    bytes_each, besides = (linear_weights / 8, 0) if in_bits else (UNITS[unit], other_bytes)
    budget = int(amount * bytes_each) - besides
    if budget < least_bytes:
        assert found is not None
        parts = f"{least_bytes} bytes of linears, what the cheapest candidates take"
        if besides:
            parts += f", and {other_bytes} bytes of embedding, head and exact parameters"
        least = least_amount(least_bytes + besides, bytes_each)
        raise CapacityError(f"the budget must be at least {least}{found.group(2)} ({parts}), got {text.strip()}")
    return budget


def least_amount(nbytes: int, bytes_each: float) -> str:
    """The least number of units of `bytes_each` bytes, with at most four decimals, that comes to `nbytes`."""
    scale = 1 if bytes_each == 1 else 10**DECIMALS
    steps = ceil(nbytes * scale / bytes_each)
    # a product that is rounded down would miss a byte
    while int(steps / scale * bytes_each) < nbytes:
        steps += 1
    return f"{steps / scale:.{DECIMALS}f}".rstrip("0").rstrip(".")
