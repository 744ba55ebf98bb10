"""Several items on their way at once: in order, within their room, and none left running after a failure."""

import threading

import pytest
import torch

from meswitch.ahead import torch_threads, work_ahead


def test_results_come_in_order() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            # the second one is done before the first
            assert first_may_end.wait(30)
        else:
            first_may_end.set()
        return 10 * item

    found = list(work_ahead([(0, 1), (1, 1), (2, 1)], work, limit=9, workers=2))
    assert found == [(0, 0), (1, 10), (2, 20)]


@pytest.mark.parametrize(("limit", "workers", "most"), [(3, 8, 3), (99, 2, 2), (0, 8, 1)])
def test_items_on_their_way_keep_within_their_room(limit: int, workers: int, most: int) -> None:
    begun: list[int] = []
    taken: list[int] = []

    def items() -> list[tuple[int, int]]:
        return [(number, 1) for number in range(6)]

    ahead = 0
    for item, _ in work_ahead(items(), begun.append, limit=limit, workers=workers):
        taken.append(item)
        # what was begun and not taken before this one
        ahead = max(ahead, len(begun) - len(taken) + 1)
    assert taken == list(range(6))
    assert ahead <= most


def test_a_failure_comes_in_its_place_and_ends_the_work() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise KeyError("one")
        return item

    threads = threading.active_count()
    found = work_ahead(((n, 1) for n in range(1000)), work, limit=99, workers=2)
    assert next(found) == (0, 0)
    with pytest.raises(KeyError, match="one"):
        next(found)
    assert threading.active_count() == threads


def test_no_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        list(work_ahead([(0, 1)], int, limit=1, workers=0))


def test_torch_has_its_threads_back_afterwards() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1) as known:
        assert known == before
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
