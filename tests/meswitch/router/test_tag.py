import pytest

from meswitch.core import AUTO
from meswitch.errors import UnknownExpertError
from meswitch.router.base import Query, Route
from meswitch.router.tag import TagRouter

ROUTER = TagRouter(["Dates", "sums", "base"])


def test_the_named_expert_answers_whatever_the_letters_case() -> None:
    queries = [Query(text="", tag=tag) for tag in ("sums", "DATES", "Base")]
    assert ROUTER.route(queries) == [Route(expert=name, confidence=None) for name in ("sums", "Dates", "base")]


def test_an_unknown_expert_is_refused_with_the_closest_name() -> None:
    with pytest.raises(UnknownExpertError, match=r"'date' \(did you mean Dates\?\); there are Dates, base, sums"):
        ROUTER.resolve("date")


def test_auto_needs_another_router() -> None:
    with pytest.raises(UnknownExpertError, match="must name its expert, got auto"):
        ROUTER.resolve(AUTO)
