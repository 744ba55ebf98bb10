"""What a capture leaves behind when its work fails, and what may not happen during one; CUDA itself is faked."""

import gc
import weakref
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch

from meswitch.cuda.graphs import GraphPool


class FakeGraph:
    """A graph whose capture cannot be ended once what it recorded has failed."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        made.append(self)

    def capture_begin(self, *, pool: str) -> None:
        self.calls.append(f"begin in {pool}")

    def capture_end(self) -> None:
        self.calls.append("end")
        if failed:
            raise RuntimeError("operation failed due to a previous error during capture")


class Cycle:
    """What only the collector of cycles frees."""

    def __init__(self) -> None:
        self.own = self


made: list[FakeGraph] = []
failed: list[str] = []


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    failed.clear()
    fakes = {"graph_pool_handle": lambda: "pool", "Stream": Mock(), "stream": lambda _: nullcontext()}
    for name, fake in {**fakes, "synchronize": Mock(), "CUDAGraph": FakeGraph}.items():
        monkeypatch.setattr(torch.cuda, name, fake)


def fail() -> None:
    failed.append("work")
    raise ValueError("of the work itself")


def test_a_graph_is_what_was_launched_between_its_begin_and_its_end() -> None:
    calls: list[str] = []
    graph = GraphPool(torch.device("cuda")).capture(lambda: calls.extend([*made[0].calls, "work"]))
    assert calls == ["begin in pool", "work"]
    assert graph is made[0]
    assert graph.calls == ["begin in pool", "end"]


def test_an_error_of_the_work_is_not_hidden_by_that_of_ending_its_capture() -> None:
    with pytest.raises(ValueError, match="of the work itself"):
        GraphPool(torch.device("cuda")).capture(fail)
    assert made[0].calls == ["begin in pool", "end"]


def test_an_error_of_ending_a_capture_whose_work_succeeded_is_told() -> None:
    with pytest.raises(RuntimeError, match="previous error during capture"):
        GraphPool(torch.device("cuda")).capture(lambda: failed.append("quietly"))


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("works", [True, False])
def test_cycles_are_never_collected_during_a_capture_and_as_before_it_afterwards(enabled: bool, works: bool) -> None:
    seen: list[bool] = []

    def work() -> None:
        seen.append(gc.isenabled())
        if not works:
            fail()

    pool = GraphPool(torch.device("cuda"))
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with nullcontext() if works else pytest.raises(ValueError, match="of the work itself"):
            pool.capture(work)
        after = gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == [False]
    assert after == enabled


def test_cycles_of_an_engine_that_is_gone_are_collected_before_the_first_capture() -> None:
    reference = weakref.ref(Cycle())
    gc.disable()
    try:
        assert reference() is not None
        GraphPool(torch.device("cuda"))
        assert reference() is None
    finally:
        gc.enable()
