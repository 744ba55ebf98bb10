"""Numbers as a reader sees them: value, unit and interval, never more digits than they deserve.

`None` means "did not happen" or "cannot be known" and is always shown as a dash, never as zero.
"""

from harness.summary import Estimate

__all__ = [
    "MISSING",
    "format_bytes",
    "format_count",
    "format_factor",
    "format_interval",
    "format_number",
    "format_plural",
    "format_rate",
    "format_seconds",
    "format_share",
]

MISSING = "–"
"""What stands where a number is undefined."""

_MIB = 1024**2
_GIB = 1024**3


def format_number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and thousands separated, without an exponent."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if whole:
        return f"{value:,.{max(0, digits - whole)}f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def format_seconds(value: float | None, digits: int = 3) -> str:
    """A duration in the unit that keeps it readable: µs, ms or s."""
    if value is None:
        return MISSING
    unit = seconds_unit(value)
    return f"{format_number(value * _PER_SECOND[unit], digits)} {unit}"


def seconds_unit(value: float) -> str:
    """The unit in which a duration of `value` seconds is between 1 and 1000, as far as there is one."""
    # 999.9996 µs is a millisecond by any name: ticks of a log axis are that close
    if abs(value) >= 1 - 1e-9 or value == 0:
        return "s"
    return "ms" if abs(value) >= 1e-3 - 1e-12 else "µs"


def format_bytes(value: float | None) -> str:
    """A size in MiB, or GiB from ten of them on."""
    if value is None:
        return MISSING
    if abs(value) >= 10 * _GIB:
        return f"{format_number(value / _GIB)} GiB"
    return f"{format_number(value / _MIB)} MiB"


def format_share(value: float | None) -> str:
    """A share of one as per cent with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def format_rate(value: float | None) -> str:
    """A number per second."""
    return MISSING if value is None else f"{format_number(value)} /s"


def format_count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return MISSING if value is None else f"{int(value):,}"


def format_plural(count: int, noun: str) -> str:
    """`count` and the noun, which gets an s unless there is one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_factor(value: float | None) -> str:
    """A ratio, such as `3.2×`."""
    return MISSING if value is None else f"{format_number(value, 3 if value >= 10 else 2)}×"


def format_interval(estimate: Estimate | None, kind: str) -> str:
    """The interval in brackets, in the unit of its estimate; an open bound is a dash; empty without any bound.

    Args:
        kind: `seconds`, `share`, `factor`, `bytes` or `number`.
    """
    if estimate is None or (estimate.low is None and estimate.high is None):
        return ""
    return f"[{_bound(estimate, estimate.low, kind)}, {_bound(estimate, estimate.high, kind)}]"


_PER_SECOND = {"s": 1.0, "ms": 1e3, "µs": 1e6}


def _bound(estimate: Estimate, bound: float | None, kind: str) -> str:
    if bound is None:
        return MISSING
    if kind == "seconds":
        return format_number(bound * _PER_SECOND[seconds_unit(estimate.value)])
    if kind == "share":
        return f"{100 * bound:.1f}"
    if kind == "factor":
        return format_factor(bound).removesuffix("×")
    return format_number(bound / _MIB) if kind == "bytes" else format_number(bound)
