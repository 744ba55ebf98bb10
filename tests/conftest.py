"""What holds for every test."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# processes beside each other are as many as cores already; read when torch is imported, by children too
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# seeded, as all tests are; no deadline, because a first call may load half of torch on a busy machine
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `make faults`."""
    parser.addoption("--trials", type=int, default=40, help="imports to kill in tests/meswitch/test_import_faults.py")
    parser.addoption("--trials-out", type=Path, default=None, help="where to write what came of them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a device to itself where other test processes hold memory on it."""
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        skip = pytest.mark.skip(reason="needs the GPU to itself: run `pytest -m 'gpu and alone'`, without -n")
        for item in items:
            if item.get_closest_marker("alone"):
                item.add_marker(skip)


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer programs for the interpreter, which runs one after the other: two splits of attention, prompts padded to 4.

    For tests of a whole decoder; those of the kernels and of the lengths of prompts ask for the rest.
    """
    from meswitch.cuda import prompt_runner
    from meswitch_kernels import attention

    monkeypatch.setattr(attention, "_splits", lambda kv_heads: 2)
    monkeypatch.setattr(prompt_runner, "PADDED_TOKENS", 4)
