"""Everything workloads raises on purpose.

* WorkloadError
  x TraceFormatError    a trace file breaks the schema: the message names file, line and field
  x UnknownTaskError    no task is registered under that name
  x UnknownVerifierError
"""

__all__ = ["TraceFormatError", "UnknownTaskError", "UnknownVerifierError", "WorkloadError"]


class WorkloadError(Exception):
    """Root of the tree."""


class TraceFormatError(WorkloadError):
    """A trace is missing or breaks the schema: the message names file, line and field."""


class UnknownTaskError(WorkloadError):
    """No task is registered under that name."""


class UnknownVerifierError(WorkloadError):
    """No verifier is registered under that name."""
