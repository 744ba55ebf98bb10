"""What holds for every test."""

from pathlib import Path

import pytest
from hypothesis import settings

# seeded, as all tests are; no deadline, because a first call may load half of torch on a busy machine
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `make faults`."""
    parser.addoption("--trials", type=int, default=40, help="imports to kill in tests/meswitch/test_import_faults.py")
    parser.addoption("--trials-out", type=Path, default=None, help="where to write what came of them")
