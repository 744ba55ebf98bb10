import pytest
import torch

from meswitch.dense_cache import DenseCache
from meswitch.errors import EngineError
from meswitch.operand import DenseOperand

MATRIX = DenseOperand(torch.ones(2, 5))  # 40 bytes


def test_matrices_of_an_expert_with_room_are_held() -> None:
    cache = DenseCache(100)
    assert cache.lease("a", 40)
    assert cache.get("a", "w") is None
    cache.put("a", "w", MATRIX)
    assert cache.get("a", "w") is MATRIX
    assert cache.used_bytes == 40
    cache.check_integrity()


def test_an_expert_without_room_is_not_held() -> None:
    cache = DenseCache(100)
    assert cache.lease("a", 80)
    assert not cache.lease("b", 40)
    cache.put("b", "w", MATRIX)
    assert cache.get("b", "w") is None
    assert cache.used_bytes == 0


def test_room_is_made_by_experts_that_nobody_uses() -> None:
    cache = DenseCache(100)
    assert cache.lease("a", 80)
    cache.put("a", "w", MATRIX)
    cache.release("a")
    assert cache.lease("b", 40)
    assert cache.get("a", "w") is None
    assert cache.used_bytes == 0


def test_integrity_notices_more_than_was_booked() -> None:
    cache = DenseCache(50)
    assert cache.lease("a", 40)
    cache.put("a", "w", MATRIX)
    cache.put("a", "v", MATRIX)
    with pytest.raises(EngineError, match="50 bytes may be held, 80 are"):
        cache.check_integrity()
