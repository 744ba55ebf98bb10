"""A record of two items, of which tests change what they are about."""

from typing import Any

from harness.fidelity.scores import Record


def plain_record(**changes: Any) -> Record:
    """A control's record of one expert: two items of two tokens, all of them right."""
    fields: dict[str, Any] = {
        "family": "f",
        "task": "t",
        "seed": 0,
        "expert_hash": "h",
        "arm": "expert",
        "codec": None,
        "options": None,
        "gain": 1.0,
        "gain_matched": False,
        "distilled": None,
        "half": False,
        "bits_per_weight": None,
        "expert_bytes": None,
        "tokens": (2, 2),
        "nll": (1.0, 1.0),
        "kl": (0.0, 0.0),
        "agree": (2, 2),
        "right": (2, 2),
    }
    return Record(**(fields | changes))
