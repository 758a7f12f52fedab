"""Starts that were told to more callers than one, as those of a call that was asked for again."""

import asyncio

from openlimit.bucket.limit import SECOND
from openlimit.stores.lines import Granted
from openlimit.stores.protocol import SETTLED_WITHIN
from openlimit.stores.remembered import Remembered

_MOST = 100_000


class _Told:
    __slots__ = ("others", "until")

    def __init__(self, until: float) -> None:
        self.others = 0
        """How many were told but for one."""
        self.until = until


class ToldAgain:
    """Those of one server, for as long as they could be given back.

    A client that has lost its connection asks again by another. The server may learn only a minute
    later that it had no use for the first answer, and by then the start is in use.
    """

    def __init__(self) -> None:
        self._told: Remembered[_Told] = Remembered("starts that were told again", _MOST)

    def add(self, granted: Granted) -> None:
        """One more caller is told of a start."""
        now = asyncio.get_running_loop().time() * SECOND
        key = granted.lot, granted.number
        told = self._told.get(key, now)
        if told is None:
            self._told.keep([key], told := _Told(now + SETTLED_WITHIN), now)
        told.others += 1

    def take(self, granted: Granted) -> bool:
        """One has not heard of it: whether another one was told."""
        now = asyncio.get_running_loop().time() * SECOND
        told = self._told.get((granted.lot, granted.number), now)
        if told is None or not told.others:
            return False
        told.others -= 1
        return True
