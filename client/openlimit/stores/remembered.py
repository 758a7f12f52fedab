"""What must not be done twice, for as long as it can be asked for."""

from collections import OrderedDict
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")
_Key = tuple[str, str]


class Remembered(Generic[T]):
    """Values by key, each until a time of its own; ``most`` of them, the oldest to go first.

    Not the soonest to expire: a few that last for days would leave no room for all others.
    All times are on one clock, which does not run backwards.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Not a dict: there, to find the first takes the longer the more were deleted before it.
        self._values: OrderedDict[_Key, tuple[T, float, float]] = OrderedDict()  # until, since
        self.forgotten = -inf
        """Something was forgotten early that was kept since then; nothing that was kept later."""

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _Key, now: float) -> T | None:
        """The value, while it is kept."""
        values = self._values
        while values and values[oldest := next(iter(values))][1] <= now:
            del values[oldest]
        kept = values.get(key)
        return kept[0] if kept and kept[1] > now else None

    def keep(self, key: _Key, value: T, until: float, now: float) -> None:
        """Remember a key that is not among them until then."""
        self._values.pop(key, None)  # one that has expired
        if len(self._values) >= self._most:
            _, (_, _, self.forgotten) = self._values.popitem(last=False)
        self._values[key] = value, until, now
