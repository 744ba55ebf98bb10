"""Gluon, the part of Triton in which layouts are chosen by hand, with what it has for Hopper's instructions.

Importing this module never fails: without Gluon, `gl` is a stand-in good for annotations, and `available` says no.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from meswitch_kernels.launch import interpreting

try:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource as GluonSource
    from triton.experimental.gluon.language.nvidia import hopper
    from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    # renamed after Triton 3.6
    RENAMED = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))
    load_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
    store_tile = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
except (ImportError, AttributeError):  # pragma: no cover - depends on the installation
    gluon = hopper = mbarrier = tma = GluonSource = TensorDescriptor = load_tile = store_tile = RENAMED = None
    gl = SimpleNamespace(constexpr=None)

__all__ = [
    "RENAMED",
    "GluonSource",
    "TensorDescriptor",
    "available",
    "constexpr_function",
    "gl",
    "gluon_jit",
    "hopper",
    "load_tile",
    "mbarrier",
    "processors",
    "store_tile",
    "tma",
]


def gluon_jit(function: Any) -> Any:
    """`gluon.jit(function)`, or the function itself where Gluon is not installed."""
    return function if gluon is None else gluon.jit(function)


def constexpr_function(function: Any) -> Any:
    """The function, callable with constants inside a kernel."""
    return function if gluon is None else gluon.constexpr_function(function)


def available(device: torch.device) -> bool:
    """Whether Gluon is there and `device` is a Hopper GPU."""
    return gluon is not None and device.type == "cuda" and not interpreting() and _capability(device)[0] == 9


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of `device`."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
