"""A base whose linears are kept in few bits by torchao, as the numbers that its products are computed with."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from harness.errors import UsageError

__all__ = ["GROUP", "PRECISIONS", "Precision", "check_torchao", "quantised"]

Precision = Literal["float32", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "int4")

GROUP = 32
"""Neighbours along the input that share a scale in int4; in int8 a whole output channel does."""


def quantised(
    weights: Mapping[str, torch.Tensor], names: Iterable[str], precision: Precision
) -> dict[str, torch.Tensor]:
    """The named matrices of `weights` `[N, K]` as they are after weight-only quantisation, float32.

    Symmetric, rounded to nearest. Products of such weights are those of the numbers given back here: only weights are
    quantised.

    Raises:
        UsageError: torchao is not installed, or K of a matrix is no multiple of the group.
    """
    if precision == "float32":
        return {name: weights[name] for name in names}
    quantise, config = _torchao(precision)
    found = {}
    for name in names:
        N, K = weights[name].shape
        if precision == "int4" and K % GROUP:
            raise UsageError(f"int4 needs inputs in groups of {GROUP}, got {K} of {name}")
        linear = nn.Linear(K, N, bias=False)
        linear.weight = nn.Parameter(weights[name].detach().clone(), requires_grad=False)
        quantise(linear, config)
        stored: Any = linear.weight
        found[name] = stored.dequantize().to(torch.float32)
    return found


def check_torchao() -> None:
    """Refuse to go on where bases cannot be quantised.

    Raises:
        UsageError: torchao is not installed.
    """
    _torchao("int8")


def _torchao(precision: Precision) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
            from torchao.quantization.granularity import PerGroup
        except ImportError as cause:
            raise UsageError(
                f"{precision} bases need torchao 0.18 or later; pip install 'meswitch[quality]' ({cause})"
            ) from cause
    if precision == "int8":
        return quantize_, Int8WeightOnlyConfig()
    # torchao's own int4 layouts are for GPUs; these are the same numbers, one a byte
    kind = torch.int4  # type: ignore[attr-defined]
    return quantize_, IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerGroup(GROUP))
