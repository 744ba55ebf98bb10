"""Families of shapes that are ready without a config, for tests of what is asked of them. No test lives here."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.prepared import DeltaSize, Prepared
from meswitch.config import SyntheticConfig

SMALL = DeltaSize(whole=10, linears=6, full_model=100, bits_per_weight=2, bits_per_weight_whole=2, dense=0)


def prepared_shapes(experts: Iterable[str], *, size: DeltaSize = SMALL, **changes: Any) -> Prepared:
    """A family of shapes with these experts, of 100 bytes a model and `size` an expert unless `changes` say else."""
    names = tuple(experts)
    paths = dict.fromkeys(names, Path("shape"))
    facts: dict[str, Any] = {
        "family": "made",
        "base": Path("shape"),
        "checkpoints": paths,
        "deltas": paths,
        "router": None,
        "domains": {},
        "tasks": {},
        "model_bytes": 100,
        "router_bytes": 0,
        "sizes": dict.fromkeys(names, size),
        "codec": "rtn:bits=2",
        "codec_name": "rtn",
        "codec_options": {"bits": 2},
        "weights_hash": "w",
        "vocabulary": 50,
        "has_text": False,
        "synthetic": SyntheticConfig(),
    }
    return Prepared(**{**facts, **changes})
