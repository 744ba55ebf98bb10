"""A budget as people write it: bytes of the whole expert, or bits per weight of its linears."""

import re

from meswitch.errors import CapacityError, CodecOptionError

__all__ = ["parse_budget"]

UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_budget(text: str, *, linear_weights: int, other_bytes: int) -> int:
    """The bytes that all linears together may take.

    Args:
        text: `2.25bits` for each weight of the linears, or `1.2GB` for the whole expert.
        linear_weights: weights of all linears.
        other_bytes: what the expert takes besides its linears.

    Raises:
        CodecOptionError: it is neither.
        CapacityError: it leaves nothing for the linears.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    amount, unit = (float(found.group(1)), found.group(2).lower()) if found else (0.0, "?")
    if unit in ("bit", "bits"):
        return int(amount * linear_weights / 8)
    if unit not in UNITS:
        raise CodecOptionError(f"a budget must look like 2.25bits or 1.2GB, got {text!r}")
    budget = int(amount * UNITS[unit]) - other_bytes
    if budget <= 0:
        raise CapacityError(
            f"a budget for the whole expert must be above the {other_bytes} bytes of its embedding, head and exact "
            f"parameters, got {text}"
        )
    return budget
