"""Everything workloads raises on purpose.

* WorkloadError
  x SandboxError       programs that a model wrote cannot be run here with limits
  x TraceFormatError    a trace file breaks the schema: the message names file, line and field
  x UnknownTaskError    no task is registered under that name
  x UnknownVerifierError
"""

__all__ = ["SandboxError", "TraceFormatError", "UnknownTaskError", "UnknownVerifierError", "WorkloadError"]


class WorkloadError(Exception):
    """Root of the tree."""


class SandboxError(WorkloadError):
    """Programs that a model wrote cannot be run here with limits."""


class TraceFormatError(WorkloadError):
    """A trace is missing or breaks the schema: the message names file, line and field."""


class UnknownTaskError(WorkloadError):
    """No task is registered under that name."""


class UnknownVerifierError(WorkloadError):
    """No verifier is registered under that name."""
