import pytest

from meswitch.phases import Phases


def test_phases_of_one_name_add_up_also_when_they_fail() -> None:
    ticks = iter([1.0, 3.0, 10.0, 11.5, 20.0, 24.0])
    phases = Phases(lambda: next(ticks))
    with phases.of("read"):
        pass
    with phases.of("write"):
        pass
    with pytest.raises(ValueError, match="gone"), phases.of("read"):
        raise ValueError("gone")
    # 2 + 4 seconds, and 1.5
    assert phases.seconds == {"read": 6.0, "write": 1.5}
