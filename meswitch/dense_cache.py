"""Matrices of the experts in use, formed from their codes, as far as memory allows.

The unit of eviction is a whole expert: with single matrices, a batch larger than the cache would evict each matrix
just before its next use, layer after layer. An expert that found no room is computed from its codes at each use.
"""

from meswitch.errors import EngineError
from meswitch.operand import Operand
from meswitch.residency import BoundedResidency

__all__ = ["DenseCache"]


class DenseCache:
    """Formed matrices by expert and parameter name, at most `capacity_bytes` of them."""

    def __init__(self, capacity_bytes: int) -> None:
        self._residency = BoundedResidency(capacity_bytes)
        self._matrices: dict[str, dict[str, Operand]] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes of all matrices that are held."""
        return sum(m.nbytes for held in self._matrices.values() for m in held.values())

    def lease(self, expert: str, nbytes: int) -> bool:
        """Whether there is room for `nbytes` of `expert`, which then stays until `release`.

        Room is made by evicting experts that nobody leases.
        """
        if expert not in self._residency:
            evicted = self._residency.reserve(expert, nbytes)
            if evicted is None:
                return False
            for victim in evicted:
                del self._matrices[victim]
            self._matrices[expert] = {}
        self._residency.lease(expert)
        return True

    def release(self, expert: str) -> None:
        """Give back one successful lease."""
        self._residency.release(expert)

    def get(self, expert: str, parameter: str) -> Operand | None:
        """The matrix, if it is held."""
        return self._matrices.get(expert, {}).get(parameter)

    def put(self, expert: str, parameter: str, matrix: Operand) -> None:
        """Hold `matrix` if `expert` has room; else do nothing."""
        if expert in self._matrices:
            self._matrices[expert][parameter] = matrix

    def check_integrity(self) -> None:
        """Nothing, if no more is held than was booked.

        Raises:
            EngineError: if more is: a bug, never a user's mistake.
        """
        if set(self._matrices) != set(self._residency):
            raise EngineError("the dense cache's books and matrices must name the same experts")
        if self.used_bytes > self._residency.capacity_bytes:
            raise EngineError(f"{self._residency.capacity_bytes} bytes may be held, {self.used_bytes} are")
