"""What must not be done twice, kept for as long as it may be repeated."""

import logging
from collections.abc import Hashable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import islice
from math import inf
from typing import Generic, Protocol, TypeVar

from openlimit.bucket.limit import SECOND
from openlimit.stores.untracked import Table, untrack

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
        self._values = Table[_Key, V]()
        self._to_look_at: dict[float, list[_Key]] = {}  # by the window of time in which they end
        self._windows: list[float] = []  # a heap of these
        self._gone: dict[float, int] = {}  # how many of those keys have no value any more
        self._say_at = -inf
        self.forgotten_early = 0
        """How many values."""
        self.forgotten_until = -inf
        """The latest ``until`` of those: nothing was forgotten early that lasts longer."""

    def __len__(self) -> int:
        return len(self._values)

    def items(self) -> list[tuple[_Key, V]]:
        """All, the oldest first."""
        return [*self._values.items()]

    def get(self, key: _Key, now: float) -> V | None:
        """The value, while it lasts."""
        if self._windows and self._windows[0] < now // _WINDOW:
            self._drop(now)
        value = self._values.get(key)
        return value if value is not None and value.until > now else None

    def keep(self, keys: Sequence[_Key], value: V, now: float) -> None:
        """Remember a value that is not yet, or no longer, known by these keys."""
        self._drop(now, len(keys))
        if not self._values.keys().isdisjoint(keys):
            for key in keys:
                self._values.pop(key, None)
        while self._values and len(self._values) + len(keys) > self._most:
            self._forget_some(now)
        untrack(value)
        self._values.update(dict.fromkeys(keys, value))
        self._look_at(keys, value.until)

    def knows_any(self, keys: Sequence[_Key], now: float) -> bool:
        """Whether there is a value by one of these keys, while it lasts."""
        self._drop(now, len(keys))
        if self._values.keys().isdisjoint(keys):
            return False
        return any(self.get(key, now) for key in keys)

    def _look_at(self, keys: Iterable[_Key], until: float) -> None:
        window = until // _WINDOW
        to_look_at = self._to_look_at.get(window)
        if to_look_at is None:
            to_look_at = self._to_look_at[window] = []
            untrack(to_look_at)
            heappush(self._windows, window)
        to_look_at.extend(keys)

    def _look_no_more(self, until: float) -> None:
        """At one of those that end then: else the keys of a flood outlive its values by far."""
        window = until // _WINDOW
        if keys := self._to_look_at.get(window):
            self._gone[window] = self._gone.get(window, 0) + 1
            if 2 * self._gone[window] > len(keys):
                keys[:] = [key for key in keys if key in self._values] or keys[-1:]
                self._gone[window] = 0

    def _drop(self, now: float, added: int = 1) -> None:
        for _ in range(_LOOKS * added):
            if not self._windows or self._windows[0] >= now // _WINDOW:
                return
            keys = self._to_look_at[self._windows[0]]
            key = keys.pop()
            if not keys:
                window = heappop(self._windows)
                del self._to_look_at[window]
                self._gone.pop(window, None)
            value = self._values.get(key)
            if value is not None and value.until <= now:
                del self._values[key]
            elif value is not None:
                self._look_at((key,), value.until)

    def _forget_some(self, now: float) -> None:
        """The oldest. Many at once: to find the first in a dict takes the longer the more were
        deleted before it."""
        for key in list(islice(self._values, 1 + self._most // 100)):
            until = self._values.pop(key).until
            self._look_no_more(until)
            if until > now:
                self.forgotten_early += 1
                self.forgotten_until = max(self.forgotten_until, until)
        if self.forgotten_early and now >= self._say_at:
            self._say_at = now + _SAY_EVERY
            _log.warning(
                "more than %d %s are to be remembered: %d forgotten",
                *(self._most, self._what, self.forgotten_early),
            )
