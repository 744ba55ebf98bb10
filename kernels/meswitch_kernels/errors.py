"""Everything meswitch_kernels raises on purpose.

* KernelError
  x KernelUnavailableError   no Triton, or no CUDA device, on this machine
  x UnsupportedShapeError    a shape, dtype or code width that no kernel here covers
  x BenchmarkError           a kernel failed its check, so it is not timed

The package imports without Triton and without a GPU: these are raised by the call that needs one.
"""

__all__ = ["BenchmarkError", "KernelError", "KernelUnavailableError", "UnsupportedShapeError"]


class KernelError(RuntimeError):
    """Root of the tree: catch this to catch all of it."""


class KernelUnavailableError(KernelError):
    """No Triton, or no CUDA device, on this machine."""


class UnsupportedShapeError(KernelError):
    """A shape, dtype or code width that no kernel here covers."""


class BenchmarkError(KernelError):
    """A kernel failed its check, so it is not timed."""
