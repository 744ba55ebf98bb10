"""Byte sizes as people write them."""

import re

from harness.errors import UsageError

__all__ = ["format_bytes", "parse_bytes"]

UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_bytes(text: str) -> int:
    """The bytes in `32MiB`, `1.5 GiB`, `500MB` or `1048576`.

    Raises:
        UsageError: it is not a size, or not positive.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    unit = UNITS.get(found.group(2).lower()) if found else None
    if found is None or unit is None:
        raise UsageError(f"a size must look like 32MiB or 1.5GiB, got {text!r}")
    nbytes = round(float(found.group(1)) * unit)
    if nbytes < 1:
        raise UsageError(f"a size must be at least one byte, got {text!r}")
    return nbytes


def format_bytes(nbytes: float) -> str:
    """The size with three digits and a binary unit, such as `31.2 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} GiB"
