"""Engines that follow one another in one process, as long as each leaves it in order."""

import pytest

from harness.drivers import LocalDriver, LocalDrivers
from harness.errors import DriverError
from meswitch.errors import CapacityError, EngineError

MIB = 1 << 20


class Process:
    """Stands for an engine's process, and remembers what was done with it."""

    def __init__(self, config):
        self.configs = [config]
        self.closed = False
        self.left_bytes = 0
        self.is_alive = True
        made.append(self)

    def load(self, config):
        if not self.is_alive:
            raise EngineError("the engine's process stopped")
        if config == "too large":
            self.closed = True
            raise CapacityError("it does not fit")
        self.configs.append(config)

    def unload(self):
        if self.left_bytes is None:
            raise EngineError("the engine's process stopped")
        return self.left_bytes

    def close(self):
        self.closed = True


made = []


@pytest.fixture(autouse=True)
def processes(monkeypatch):
    made.clear()
    monkeypatch.setattr("meswitch.service.EngineProcess", Process)


def test_the_next_engine_lives_where_the_last_one_ended():
    drivers = LocalDrivers()
    for config in ("a", "b"):
        driver = drivers(config)
        driver.start()
        driver.stop()
        driver.stop()
    assert [process.configs for process in made] == [["a", "b"]]
    assert not made[0].closed
    drivers.close()
    drivers.close()
    assert made[0].closed
    assert drivers.take() is None


@pytest.mark.parametrize("left_bytes", [None, 300 * MIB])
def test_a_process_that_stopped_or_gives_back_too_little_is_not_used_again(left_bytes):
    drivers = LocalDrivers()
    driver = drivers("a")
    driver.start()
    made[0].left_bytes = left_bytes
    driver.stop()
    assert made[0].closed
    drivers("b").start()
    assert [process.configs for process in made] == [["a"], ["b"]]


def test_an_engine_that_cannot_be_built_ends_the_process_and_the_next_one_gets_another():
    drivers = LocalDrivers()
    first = drivers("a")
    first.start()
    first.stop()
    second = drivers("too large")
    with pytest.raises(CapacityError, match="does not fit"):
        second.start()
    second.stop()
    drivers("b").start()
    assert [process.configs for process in made] == [["a"], ["b"]]


def test_a_process_that_died_between_two_engines_is_ended_and_another_takes_its_place():
    drivers = LocalDrivers()
    first = drivers("a")
    first.start()
    first.stop()
    made[0].is_alive = False
    drivers("b").start()
    assert made[0].closed
    assert [process.configs for process in made] == [["a"], ["b"]]


def test_a_driver_by_itself_ends_its_process():
    driver = LocalDriver("a")
    with pytest.raises(DriverError, match="not running"):
        driver.poll(0)
    driver.start()
    driver.stop()
    assert made[0].closed
