"""Names of experts."""

import pytest

from meswitch.errors import ExpertNameError
from meswitch.names import check_name


@pytest.mark.parametrize("name", ["math", "Math-2.0", "a", "7b_code", "x" * 64])
def test_portable_names_are_accepted(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["auto", "base", "AUTO", "Base"])
def test_reserved_names_are_refused_whatever_their_case(name: str) -> None:
    with pytest.raises(ExpertNameError, match="must not be one of auto, base"):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ü", "a:b", "end.", "-x", "x" * 65, "a\n", "con", "Lpt1.x"]
)
def test_names_that_some_file_system_or_request_cannot_carry_are_refused(name: str) -> None:
    with pytest.raises(ExpertNameError, match="1 to 64 letters"):
        check_name(name)
