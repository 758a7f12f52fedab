"""What must not be done twice, for as long as it can be asked for."""

from heapq import heappop, heappush
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """Values by key, each until a time of its own; ``most`` of them, the soonest to go first.

    All times are on one clock, which does not run backwards.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[tuple[str, str], T] = {}
        self._ends: list[tuple[float, tuple[str, str]]] = []  # a heap
        self.forgotten = -inf
        """Something was forgotten early that would have been kept until then."""

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: tuple[str, str], now: float) -> T | None:
        """The value, while it is kept."""
        ends = self._ends
        while ends and ends[0][0] <= now:
            self._values.pop(heappop(ends)[1], None)
        return self._values.get(key)

    def keep(self, key: tuple[str, str], value: T, until: float) -> None:
        """Remember a key that is not among them until then."""
        if len(self._values) >= self._most:
            self.forgotten, soonest = heappop(self._ends)
            self._values.pop(soonest, None)
        self._values[key] = value
        heappush(self._ends, (until, key))
