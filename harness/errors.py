"""Everything harness raises on purpose.

* HarnessError
  x RunFormatError     a run directory is missing, incomplete or damaged: the message names file, line and field
  x UnknownArmError    no arm is registered under that name
  x UsageError         options that do not go together, or a value that is not allowed
  x DriverError        the system under test stopped or cannot start
  x SelftestError      the client's own numbers are off

A command line prints the message as one line and exits with 1.
"""

__all__ = [
    "DriverError",
    "HarnessError",
    "RunFormatError",
    "SelftestError",
    "UnknownArmError",
    "UsageError",
]


class HarnessError(Exception):
    """Root of the tree."""


class RunFormatError(HarnessError):
    """A run directory is missing, incomplete or damaged."""


class UnknownArmError(HarnessError):
    """No arm is registered under that name."""


class UsageError(HarnessError):
    """Options that do not go together, or a value that is not allowed."""


class DriverError(HarnessError):
    """The system under test stopped, or cannot start."""


class SelftestError(HarnessError):
    """The client's own numbers are off."""
