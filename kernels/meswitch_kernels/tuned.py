"""Tile sizes found by measurement, one committed file, so that a user's first call is not a tuning run.

`tuned.json` maps a GPU's name to entries of both kernels; the entry nearest in shape is used. A GPU that is not in the
file uses the entries of `default`.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from meswitch_kernels.tiling import DeltaMatmulConfig, FusedMatmulConfig

__all__ = ["delta_config", "fused_config"]

_Entry = Mapping[str, Any]


@cache
def delta_config(device: str, *, rows: int, width: int, N: int, row_bytes: int, group_rows: int) -> DeltaMatmulConfig:
    """The decode configuration measured nearest to this call.

    Args:
        device: the GPU's name.
        rows, width: of the batch, and of its tiles.
        N, row_bytes: output channels, and packed bytes of each.
        group_rows: must be whole tiles (or all of N).
    """
    fitting = [
        e for e in _entries(device, "delta_matmul") if group_rows == N or group_rows % int(e["config"]["BM"]) == 0
    ]
    best = min(fitting, key=lambda e: _distance(e, rows=rows, width=width, N=N, row_bytes=row_bytes))
    return DeltaMatmulConfig(**best["config"])


@cache
def fused_config(
    device: str, *, rows: int, N: int, K: int, group_rows: int, warpgroups: bool = False
) -> FusedMatmulConfig:
    """The prefill configuration measured nearest to this call.

    Args:
        device: the GPU's name.
        rows: tokens.
        N, K: output channels and input dimension.
        group_rows: must be whole tiles (or all of N).
        warpgroups: whether that method covers the call; where it does, it is the fastest for every shape measured.
    """
    entries = _entries(device, "fused_matmul")
    fitting = [e for e in entries if _fits(e, group_rows if group_rows != N else 0, warpgroups=warpgroups)]
    fitting = fitting or [e for e in entries if _fits(e, group_rows if group_rows != N else 0, warpgroups=False)]
    best = min(fitting, key=lambda e: _distance(e, rows=rows, N=N, K=K))
    return FusedMatmulConfig(**best["config"])


def _fits(entry: _Entry, group_rows: int, *, warpgroups: bool) -> bool:
    """Whether an entry is of that method, and no tile of it spans two groups; merging has small tiles of its own."""
    config = FusedMatmulConfig(**entry["config"])
    fits = config.method == "merged" or group_rows % config.BN == 0
    return fits and (config.method == "warpgroups") == warpgroups


def _distance(entry: _Entry, **shape: int) -> float:
    """Euclidean, in powers of two; the tile's width counts most, since it sets the registers."""
    weight = {"width": 4.0, "rows": 1.0, "N": 1.0, "row_bytes": 1.0, "K": 1.0}
    return math.hypot(*(weight[name] * math.log2(value / entry[name]) for name, value in shape.items()))


def _entries(device: str, kernel: str) -> list[_Entry]:
    table = _table()
    return list(table.get(device, table["default"])[kernel])


@cache
def _table() -> Mapping[str, Mapping[str, list[_Entry]]]:
    text = files("meswitch_kernels").joinpath("tuned.json").read_text(encoding="utf-8")
    table: Mapping[str, Mapping[str, list[_Entry]]] = json.loads(text)
    return table
