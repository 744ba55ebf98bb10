"""Ways to reach a system under test: in a process of its own, or a fake one with known latencies."""

from harness.drivers.base import Driver
from harness.drivers.fake import FakeDriver, FakePlan
from harness.drivers.local import LocalDriver, LocalDrivers

__all__ = ["Driver", "FakeDriver", "FakePlan", "LocalDriver", "LocalDrivers"]
