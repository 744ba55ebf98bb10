"""Names of experts: what a user may call one, on any file system and in any request."""

import re

from meswitch.core import AUTO, BASE
from meswitch.errors import ExpertNameError

__all__ = ["check_name"]

RESERVED = frozenset({AUTO, BASE})

# device names that Windows reserves in every directory
DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))})

PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")


def check_name(name: str) -> str:
    """`name`, if an expert may be called so.

    Raises:
        ExpertNameError: it is reserved, or not portable between file systems and requests.
    """
    if name.lower() in RESERVED:
        raise ExpertNameError(f"an expert's name must not be one of {', '.join(sorted(RESERVED))}, got {name!r}")
    if not PATTERN.fullmatch(name) or name.split(".")[0].lower() in DEVICES:
        raise ExpertNameError(
            f"an expert's name must be 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit and "
            f"not ending with '.', got {name!r}"
        )
    return name
