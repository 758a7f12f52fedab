"""What must not be done twice, for as long as it can be asked for."""

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from heapq import heappop, heappush
from math import inf
from typing import Generic, Protocol, TypeVar

from openlimit.leaky_bucket import SECOND

_WINDOW = 1 * SECOND
_LOOKS = 4  # a call adds one key and drops up to this many, so they never pile up
_SAY_EVERY = 60 * SECOND

_log = logging.getLogger("openlimit")


class Lasting(Protocol):
    """What is remembered."""

    until: float
    """From then on it may be forgotten; may become later."""


V = TypeVar("V", bound=Lasting)
_Key = Hashable


class Remembered(Generic[V]):
    """Values by key, each until a time of its own; ``most`` of them, the oldest to go first.

    Not the soonest to expire: a few that last for days would leave no room for all others.
    What goes early is counted, and logged as ``what`` it was.
    All times are in microseconds on one clock, which does not run backwards.
    """

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        # Not a dict: there, to find the first takes the longer the more were deleted before it.
        self._values: OrderedDict[_Key, V] = OrderedDict()
        self._to_look_at: dict[float, list[_Key]] = {}  # by the end of a window of time
        self._ends: list[float] = []  # a heap of these
        self._say_at = -inf
        self.forgotten_early = 0
        """How many values."""
        self.forgotten_until = -inf
        """The latest ``until`` of those: nothing was forgotten early that lasts longer."""

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> Iterable[V]:
        """All of them."""
        return self._values.values()

    def get(self, key: _Key, now: float) -> V | None:
        """The value, while it lasts."""
        if self._ends and self._ends[0] <= now:
            self._drop(now)
        value = self._values.get(key)
        return value if value is not None and value.until > now else None

    def keep(self, key: _Key, value: V, now: float) -> None:
        """Remember a value that is not yet, or no longer, known by this key."""
        self._drop(now)
        self._values.pop(key, None)
        if len(self._values) >= self._most:
            self._forget_oldest(now)
        self._values[key] = value
        self._look_at(key, value.until)

    def _look_at(self, key: _Key, until: float) -> None:
        end = (until // _WINDOW + 1) * _WINDOW
        keys = self._to_look_at.get(end)
        if keys is None:
            keys = self._to_look_at[end] = []
            heappush(self._ends, end)
        keys.append(key)

    def _drop(self, now: float) -> None:
        for _ in range(_LOOKS):
            if not self._ends or self._ends[0] > now:
                return
            keys = self._to_look_at[self._ends[0]]
            key = keys.pop()
            if not keys:
                del self._to_look_at[heappop(self._ends)]
            value = self._values.get(key)
            if value is not None and value.until <= now:
                del self._values[key]
            elif value is not None:
                self._look_at(key, value.until)

    def _forget_oldest(self, now: float) -> None:
        _, value = self._values.popitem(last=False)
        if value.until <= now:
            return
        self.forgotten_early += 1
        self.forgotten_until = max(self.forgotten_until, value.until)
        if now >= self._say_at:
            self._say_at = now + _SAY_EVERY
            _log.warning(
                "more than %d %s are to be remembered: %d forgotten",
                *(self._most, self._what, self.forgotten_early),
            )
