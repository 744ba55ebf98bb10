"""Where kernels may run, and Triton itself when it is there.

Importing this module never fails: without Triton, `triton` and `tl` are stand-ins whose `jit` leaves functions as they
are, and `check_available` raises before anything is launched.
"""

import os
from types import SimpleNamespace
from typing import Any

import torch

from meswitch_kernels.errors import KernelUnavailableError

try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # pragma: no cover - depends on the installation
    triton = TensorDescriptor = None
    # what annotations of kernels name
    tl = SimpleNamespace(constexpr=None)

__all__ = [
    "TensorDescriptor",
    "check_available",
    "device_name",
    "early_launch",
    "interpreting",
    "jit",
    "supports_early_launch",
    "tl",
    "triton",
]


def jit(function: Any) -> Any:
    """`triton.jit(function)`, or the function itself where Triton is not installed."""
    return function if triton is None else triton.jit(function)


def interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU and without inline assembly."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def check_available(tensor: torch.Tensor) -> None:
    """Nothing, if a kernel can run on `tensor`'s device.

    Raises:
        KernelUnavailableError: without Triton, or off CUDA (the interpreter also takes CPU tensors).
    """
    if triton is None:
        raise KernelUnavailableError(
            "Triton is not installed: install meswitch[gpu], or use meswitch_kernels.reference"
        )
    if tensor.device.type != "cuda" and not interpreting():
        raise KernelUnavailableError(
            f"kernels run on CUDA tensors, got one on {tensor.device}: move it, or use meswitch_kernels.reference"
        )


def device_name(device: torch.device) -> str:
    """The GPU's name, as tuned configurations are filed under; `interpreter` on the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


def early_launch(tensor: torch.Tensor) -> dict[str, bool]:
    """What a launch needs for its kernel to start while the kernel ahead drains; nothing where that is not possible.

    Such a kernel waits (`gdc_wait`) before it reads or writes anything.
    """
    return {"launch_pdl": True} if supports_early_launch(tensor) else {}


def supports_early_launch(tensor: torch.Tensor) -> bool:
    """Whether a kernel on `tensor`'s device can be launched before the one ahead of it has ended."""
    return not interpreting() and torch.cuda.get_device_capability(tensor.device) >= (9, 0)
